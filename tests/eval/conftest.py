"""Small models of random weights and small scenes, as files, for the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from models.lalrm import LaLRM, LaLRMConfig
from models.linear_codec import LinearCodec, LinearCodecConfig

SCENE = SceneConfig(height=32, width=48, num_frames=9, num_near=2, num_far=2, supersampling=1)


@pytest.fixture(scope="session")
def scene() -> SceneConfig:
    return SCENE


@pytest.fixture(scope="session")
def clip() -> Clip:
    """9 given frames of 32x48, 2 near and 2 far views."""
    return make_clip(7, SCENE)


@pytest.fixture(scope="session")
def weights(clip, tmp_path_factory) -> dict[str, Path]:
    """Folders of an untrained codec and LaLRM that fit each other, and of a codec that does not."""
    folder = tmp_path_factory.mktemp("weights")
    given = clip.frames[: clip.num_path_frames][None]
    for name, channels in (("autoencoder", 8), ("other_autoencoder", 4)):
        codec = LinearCodec(LinearCodecConfig(latent_channels=channels))
        codec.fit(torch.cat([given, given.flip(1)]))
        codec.save_pretrained(folder / name)
    torch.manual_seed(0)
    LaLRM(LaLRMConfig(latent_channels=8, width=16, depth=1, heads=2)).save_pretrained(
        folder / "lalrm"
    )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def index_file(tmp_path_factory) -> Path:
    """A committed-index file of three scenes."""
    path = tmp_path_factory.mktemp("index") / "three.json"
    path.write_text(json.dumps({"seeds": [7, 8, 9], "scene": SCENE.model_dump(mode="json")}))
    return path


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory) -> Path:
    """A file with the names and shapes of FID's Inception, of random values."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = extractor.FeatureExtractorInceptionV3("random", ["64"])
    torch.save(network.state_dict(), path)
    return path

"""Small models of random weights and small scenes, as files, for the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.lalrm import LaLRM, LaLRMConfig

SCENE = SceneConfig(height=32, width=48, num_frames=9, num_near=2, num_far=2, supersampling=1)


@pytest.fixture(scope="session")
def perturb_cameras() -> Callable[..., Cameras]:
    """Turns every camera by so many degrees about an axis of its own, and moves it by that share of the path's
    span in a direction of its own."""

    def perturb(cameras: Cameras, degrees: float, share: float, seed: int = 0) -> Cameras:
        rng = np.random.default_rng(seed)
        turns, shifts = rng.normal(size=(2, cameras.num_views, 3))
        turns *= np.deg2rad(degrees) / np.linalg.norm(turns, axis=1, keepdims=True)
        to_world = cameras.to(torch.float64).camera_to_world.clone()
        positions = to_world[:, :3, 3]
        span = float((positions - positions[0]).norm(dim=-1).max())
        shifts *= share * span / np.linalg.norm(shifts, axis=1, keepdims=True)
        to_world[:, :3, :3] = to_world[:, :3, :3] @ torch.from_numpy(
            Rotation.from_rotvec(turns).as_matrix()
        )
        to_world[:, :3, 3] += torch.from_numpy(shifts)
        return Cameras.from_camera_to_world(
            to_world, cameras.intrinsics.double(), cameras.height, cameras.width
        )

    return perturb


@pytest.fixture(scope="session")
def moving_clip() -> Clip:
    """9 frames of 64x96 whose camera goes sideways by a quarter of the median depth and turns by 2 degrees."""
    return make_clip(920_000_005, SceneConfig(num_frames=9, num_near=0, num_far=0))


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

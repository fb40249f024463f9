from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.errors import UserError
from models.autoencoders.cogvideox import CogVideoXAutoencoder, CogVideoXAutoencoderConfig
from models.autoencoders.files import load_autoencoder, save_autoencoder
from models.autoencoders.identity import check_latents, latent_probes
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.lalrm import LaLRM, LaLRMConfig
from models.pipeline import ImageToScenePipeline
from models.pipeline_files import PartFolders
from models.video.base import create_base, load_base, save_base
from models.video.model import VideoModel
from models.weight_probes import differ


def new_codec() -> LinearCodec:
    return LinearCodec(LinearCodecConfig(latent_channels=4))


def new_cogvideox() -> CogVideoXAutoencoder:
    return CogVideoXAutoencoder.from_config(
        CogVideoXAutoencoderConfig(latent_channels=4, block_out_channels=(8, 8, 8, 8))
    )


@pytest.mark.parametrize("new", [new_codec, new_cogvideox])
def test_an_autoencoder_is_known_again_from_disk_and_told_from_its_like(new, tmp_path):
    autoencoder = new()
    probes = latent_probes(autoencoder)
    assert len(set(probes)) > 8
    save_autoencoder(autoencoder, tmp_path)
    again = load_autoencoder(tmp_path)
    check_latents(again, 4, probes, "LaLRM")
    with pytest.raises(UserError, match="LaLRM was trained on the latents of another autoencoder"):
        check_latents(new(), 4, probes, "LaLRM")
    check_latents(new(), 4, None, "LaLRM")  # nobody knows


def test_latents_of_another_scale_are_others():
    autoencoder = new_cogvideox()
    probes = latent_probes(autoencoder)
    autoencoder.vae.register_to_config(scaling_factor=1.5)
    assert differ(probes, latent_probes(autoencoder))


def test_models_on_disk_remember_whose_latents_they_read(pipeline_folder, tiny_video, tmp_path):
    probes = latent_probes(new_codec())
    base = replace(create_base(tiny_video), latent_probes=probes)
    save_base(base, tmp_path / "base", torch.float16)
    assert load_base(tmp_path / "base").latent_probes == pytest.approx(probes)
    lalrm = LaLRM(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2, latent_probes=probes))
    lalrm.save_pretrained(tmp_path / "lalrm")
    with pytest.raises(UserError, match="LaLRM was trained on the latents of another autoencoder"):
        ImageToScenePipeline.from_pretrained(
            pipeline_folder, parts=PartFolders(lalrm=tmp_path / "lalrm")
        )
    model = VideoModel(load_base(tmp_path / "base"), None, train_base=False)
    with pytest.raises(UserError, match="the video model was trained on the latents of another"):
        ImageToScenePipeline(new_codec(), model, lalrm)

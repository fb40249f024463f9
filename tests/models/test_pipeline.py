"""The pipeline with tiny random models: what goes where, and what comes back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, stack_cameras
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.gaussians import Gaussians, stack_gaussians
from models.lalrm import LaLRM, LaLRMConfig
from models.pipeline import ImageToScenePipeline
from models.pipeline_files import PIPELINE_FILE, PartFolders
from models.video.clip_poses import ClipPoses
from models.video.guidance import GuidanceConfig
from models.video.sampling import SamplingConfig, SamplingStep

PER_CLIP = 9 * 16 * 24


@pytest.fixture(scope="module")
def pipeline(pipeline_folder: Path) -> ImageToScenePipeline:
    return ImageToScenePipeline.from_pretrained(pipeline_folder)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0))


def test_latents_go_to_lalrm_as_they_are_and_the_video_is_what_they_decode_to(pipeline, image):
    scene = pipeline(image, "orbit", seed=3)
    cameras = make_path("orbit", pipeline.photo(image).camera, 9)
    assert torch.equal(scene.cameras.world_to_camera, cameras.world_to_camera)
    assert torch.equal(scene.cameras.intrinsics, cameras.intrinsics)
    (latents,) = scene.latents
    assert latents.shape == (4, 3, 4, 6)
    with torch.no_grad():
        assert torch.equal(scene.video, pipeline.autoencoder.decode(latents[None])[0])
        expected = pipeline.lalrm(latents[None], stack_cameras([scene.cameras])).sample(0)
    for name, tensor in expected.tensors().items():
        assert torch.allclose(scene.gaussians.tensors()[name], tensor, atol=1e-6), name
    assert (scene.units, scene.clips) == ((1.0,), (range(9),))
    assert set(scene.seconds) >= {"encode image", "sample video", "decode video", "reconstruct"}
    assert scene.clip().num_frames == 9


def test_the_path_steers_the_video_and_the_seed_its_noise(pipeline, image):
    orbit = pipeline(image, "orbit").latents[0]
    assert torch.equal(pipeline(image, "orbit", seed=0).latents[0], orbit)
    assert not torch.allclose(pipeline(image, "orbit", amplitude=-30).latents[0], orbit, atol=1e-3)
    assert not torch.allclose(pipeline(image, "orbit", seed=1).latents[0], orbit, atol=0.1)
    strong = SamplingConfig(steps=2, guidance=GuidanceConfig(camera=4))
    assert not torch.allclose(
        pipeline(image, "orbit", sampling=strong).latents[0], orbit, atol=1e-3
    )


def test_any_kind_of_image_will_do(pipeline, image, tmp_path):
    pixels = (image * 255).round().byte().movedim(0, -1).numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(tmp_path / "a.png")
    expected = pipeline(tmp_path / "a.png", "pan").latents[0]
    for same in (str(tmp_path / "a.png"), picture, pipeline.photo(tmp_path / "a.png")):
        assert torch.equal(pipeline(same, "pan").latents[0], expected)
    wider = pipeline(picture, "pan", focal_35mm=18)
    assert float(wider.cameras.intrinsics[0, 0, 0]) < 0.7 * float(
        pipeline.photo(picture).camera.intrinsics[0, 0, 0]
    )


def test_scenes_made_together_are_those_made_alone(pipeline, image):
    photos = [pipeline.photo(image), pipeline.photo(image.flip(-1))]
    paths = [make_path(name, photos[0].camera, 17) for name in ("orbit", "dolly_zoom")]
    together = pipeline.generate(photos, paths, [5, 6])
    for photo, path, seed, scene in zip(photos, paths, [5, 6], together, strict=True):
        (alone,) = pipeline.generate([photo], [path], [seed])
        assert torch.allclose(scene.video, alone.video, atol=1e-4)
        assert torch.allclose(scene.gaussians.means, alone.gaussians.means, atol=1e-3)
        assert scene.units == pytest.approx(alone.units, rel=1e-4)


def test_a_saved_pipeline_is_the_same_pipeline(pipeline, image, tmp_path):
    expected = pipeline(image, "crane")
    pipeline.save_pretrained(tmp_path / "copy")
    found = ImageToScenePipeline.from_pretrained(tmp_path / "copy")
    assert found.sampling == pipeline.sampling
    assert torch.equal(found(image, "crane").latents[0], expected.latents[0])
    content = json.loads((tmp_path / "copy" / PIPELINE_FILE).read_text())
    assert content["kind"] == "image_to_scene"
    assert content["parts"]["camera_branches"] == "camera_branches"
    pipeline.save_pretrained(tmp_path / "half", torch.float16)
    half = ImageToScenePipeline.from_pretrained(tmp_path / "half")(image, "crane")
    assert torch.allclose(half.latents[0], expected.latents[0], atol=0.05)


class WallAhead(LaLRM):
    """Sees in every clip a wall one unit of the clip before its first camera."""

    def forward(self, latents, cameras):
        self.seen = getattr(self, "seen", [])
        self.seen.append(cameras)
        side = torch.linspace(-1.5, 1.5, 50)
        y, x = torch.meshgrid(side, side, indexing="ij")
        means = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)
        wall = Gaussians(
            means=means,
            quats=torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1),
            scales=torch.full((len(means), 3), 0.06),
            opacities=torch.full((len(means),), 0.95),
            colors=torch.full((len(means), 3), 0.5),
        )
        return stack_gaussians([wall] * len(latents))


def test_clips_of_a_chain_agree_on_where_a_wall_is(pipeline, image):
    """Each clip sees the wall at 1 in its own unit; along the path all of them are one wall, at depth 1."""
    wall = WallAhead(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2))
    chained = ImageToScenePipeline(pipeline.autoencoder, pipeline.model, wall)
    steps: list[SamplingStep] = []
    two = SamplingConfig(steps=2)
    scene = chained(
        image, "dolly", amplitude=0.6, num_frames=25, sampling=two, on_step=steps.append
    )
    assert scene.video.shape == (25, 3, 32, 48) and scene.cameras.num_views == 25
    assert scene.clips == (range(9), range(8, 17), range(16, 25))
    assert scene.units == pytest.approx((1.0, 0.8, 0.6), abs=0.01)
    assert torch.allclose(scene.gaussians.means[:, 2], torch.tensor(1.0), atol=0.02)
    moves = [cameras.positions[0, -1, 2].item() for cameras in wall.seen]
    assert moves == pytest.approx([0.2, 0.2 / 0.8, 0.2 / 0.6], rel=0.02)
    for cameras in wall.seen:
        assert torch.equal(cameras.world_to_camera[0, 0], torch.eye(4))
    assert [(step.done, step.total) for step in steps] == [(n, 6) for n in range(1, 7)]
    assert any("cut into 3 clips" in note for note in scene.notes)


def test_a_chain_goes_on_from_where_a_clip_really_is(pipeline, image):
    """The first of three clips is found to have gone half as far and to the side; the others do as they are told."""
    wall = WallAhead(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2))
    chained = ImageToScenePipeline(pipeline.autoencoder, pipeline.model, wall)
    path = make_path("dolly", pipeline.photo(image).camera, 25, 0.6)
    asked: list[Cameras] = []

    def look(frames, cameras):
        assert frames.shape == (9, 3, 32, 48) and cameras.num_views == 9
        asked.append(cameras)
        if len(asked) > 1:
            return ClipPoses(None, "told so", {"follows": True})
        to_world = torch.eye(4).repeat(9, 1, 1)
        to_world[:, 2, 3] = torch.linspace(0, 0.1, 9)
        to_world[:, 0, 3] = torch.linspace(0, 0.2, 9)
        lens = path.intrinsics[:9]
        found = Cameras.from_camera_to_world(to_world, lens, path.height, path.width)
        return ClipPoses(found, "found elsewhere", {"follows": False})

    two = SamplingConfig(steps=2)
    scene = chained(image, path, sampling=two, poses=look)
    # What was commanded: 0.2 of the way each, in units of what is left to the wall.
    assert [c.positions[-1, 2].item() for c in asked] == pytest.approx(
        [0.2, 0.2 / 0.9, 0.2 / 0.7], rel=0.02
    )
    assert scene.units == pytest.approx((1.0, 0.9, 0.7), abs=0.01)
    reached = wall.seen[0].positions[0, -1]
    assert torch.allclose(reached, torch.tensor([0.2, 0.0, 0.1]), atol=1e-5)
    places = scene.cameras.positions
    assert places[[8, 16, 24], 2].tolist() == pytest.approx([0.1, 0.3, 0.5], abs=1e-4)
    assert places[8:, 0].tolist() == pytest.approx([0.2] * 17, abs=1e-5)
    assert torch.allclose(scene.gaussians.means[:, 2], torch.tensor(1.0), atol=0.02)
    assert [line["used"] for line in scene.poses] == ["estimated", "commanded", "commanded"]
    assert "frames 0 to 8: found elsewhere" in scene.notes


def test_poses_that_are_looked_at_and_kept_change_nothing(pipeline, image):
    expected = pipeline(image, "orbit", num_frames=17)
    kept = pipeline(image, "orbit", num_frames=17, poses=lambda *_: ClipPoses(None, "kept"))
    assert torch.equal(kept.gaussians.means, expected.gaussians.means)
    assert torch.equal(kept.cameras.world_to_camera, expected.cameras.world_to_camera)
    assert len(kept.poses) == 2 and expected.poses == ()


def test_the_next_clip_starts_from_the_last_frame(pipeline, image, monkeypatch):
    given = []
    sample = pipeline.sampler.sample

    def spy(image_latents, *args, **kwargs):
        given.append(image_latents)
        return sample(image_latents, *args, **kwargs)

    monkeypatch.setattr(pipeline.sampler, "sample", spy)
    scene = pipeline(image, "truck", num_frames=17)
    with torch.no_grad():
        first = pipeline.autoencoder.encode(pipeline.photo(image).frame[None, None])
        decoded = pipeline.autoencoder.decode(scene.latents[0][None])
        second = pipeline.autoencoder.encode(decoded[:, -1:])
        last = pipeline.autoencoder.decode(scene.latents[1][None])[0]
    assert torch.equal(given[0], first) and torch.equal(given[1], second)
    assert torch.equal(scene.video[:9], decoded[0]) and torch.equal(scene.video[9:], last[1:])
    assert scene.gaussians.num_gaussians == 2 * PER_CLIP


def test_a_scene_that_is_out_of_sight_keeps_the_unit_and_says_so(pipeline, image):
    wall = WallAhead(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2))
    chained = ImageToScenePipeline(pipeline.autoencoder, pipeline.model, wall)
    scene = chained(image, "pan", amplitude=300, num_frames=17, sampling=SamplingConfig(steps=1))
    assert scene.units == (1.0, 1.0)
    assert any("keeps the unit" in note for note in scene.notes)


def test_weights_off_the_accelerator_change_nothing(pipeline_folder, image):
    pipeline = ImageToScenePipeline.from_pretrained(pipeline_folder)
    expected = pipeline(image, "orbit")
    pipeline.offload("model", "cpu")
    found = pipeline(image, "orbit")
    assert torch.allclose(found.video, expected.video, atol=1e-5)
    assert torch.allclose(found.gaussians.means, expected.gaussians.means, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [None, "model", "sequential"])
def test_a_gpu_gives_what_the_cpu_gives(pipeline_folder, pipeline, image, mode):
    expected = pipeline(image, "orbit", num_frames=17)
    there = ImageToScenePipeline.from_pretrained(pipeline_folder)
    if mode is None:
        there.to("cuda")
    else:
        there.offload(mode)
    found = there(image, "orbit", num_frames=17)
    assert found.video.device.type == "cuda"
    assert (found.video.cpu() - expected.video).abs().max() < 0.02


def test_a_pipeline_without_branches_runs_and_says_what_it_lacks(pipeline_folder, pipeline, image):
    with pytest.MonkeyPatch.context() as patch:
        folders = {"camera_branches": None}
        patch.setattr(
            "models.pipeline.read_pipeline_file",
            lambda folder: (
                replace(
                    PartFolders(
                        autoencoder=folder / "autoencoder",
                        video_base=folder / "video_base",
                        lalrm=folder / "lalrm",
                    ),
                    **folders,
                ),
                SamplingConfig(steps=2),
            ),
        )
        plain = ImageToScenePipeline.from_pretrained(pipeline_folder)
    there, back = plain(image, "orbit"), plain(image, "orbit", amplitude=-30)
    assert torch.equal(there.video, back.video)
    assert any("no camera branches" in note for note in there.notes)


def test_parts_can_be_taken_from_elsewhere(pipeline_folder, pipeline, image, tmp_path):
    torch.manual_seed(1)
    other = LaLRM(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2))
    other.save_pretrained(tmp_path / "lalrm")
    parts = PartFolders(lalrm=tmp_path / "lalrm")
    mixed = ImageToScenePipeline.from_pretrained(pipeline_folder, parts=parts)
    scene = mixed(image, "orbit")
    assert torch.equal(scene.latents[0], pipeline(image, "orbit").latents[0])
    assert torch.equal(mixed.lalrm.fuse.weight, other.fuse.weight)
    alone = PartFolders(
        autoencoder=pipeline_folder / "autoencoder",
        video_base=pipeline_folder / "video_base",
        camera_branches=pipeline_folder / "camera_branches",
        lalrm=tmp_path / "lalrm",
    )
    named = ImageToScenePipeline.from_pretrained(parts=alone)
    assert torch.equal(
        named(image, "orbit", sampling=pipeline.sampling).gaussians.means, scene.gaussians.means
    )


def bent(path: Cameras, view: int, what: str) -> Cameras:
    """A path that is wrong at one view."""
    poses, lenses = path.world_to_camera.clone(), path.intrinsics.clone()
    if what == "jump":
        poses[view:, 0, 3] += 5
    elif what == "nan":
        poses[view, 1, 3] = torch.nan
    else:
        lenses[view, 0, 0] = 0
    return Cameras(poses, lenses, path.height, path.width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.select([0]), "has 1 views.*9 or 17"),
        (lambda path: path.select(range(8)), "has 8 views"),
        (lambda path: bent(path, 5, "nan"), "camera 5 has NaN"),
        (lambda path: bent(path, 5, "jump"), "jump.*between views 4 and 5"),
        (lambda path: bent(path, 3, "focal"), "camera 3 has focal length \\(0,"),
        (lambda path: path.resize(64, 96), "64x96, the image is 32x48"),
        (lambda path: stack_cameras([path]), "expected one path"),
    ],
)
def test_a_path_that_makes_no_sense_is_one_sentence(pipeline, image, change, message):
    path = change(make_path("dolly", pipeline.photo(image).camera, 9))
    with pytest.raises(UserError, match=message):
        pipeline(image, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": "orbti"}, "orbit"),
        ({"cameras": "orbit", "amplitude": 1000}, "amplitude"),
        ({"num_frames": 12}, "has 12 views"),
        ({"prompt": "a cat"}, "no text encoder"),
        ({"negative_prompt": "blur"}, "negative prompt has no effect"),
        ({"focal_35mm": 0}, "focal length is 0 mm"),
        ({"image": "none.jpg"}, "none.jpg: no such image file"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(pipeline, image, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(**{"image": image, **options})


def test_missing_or_unfitting_parts_are_one_sentence(pipeline_folder, pipeline, tmp_path):
    def refused(folder: Path | None, message: str, **parts: Path) -> None:
        with pytest.raises(UserError, match=message):
            ImageToScenePipeline.from_pretrained(folder, parts=PartFolders(**parts))

    refused(tmp_path / "none", "pipeline.json is missing")
    refused(None, "no autoencoder; name the folder")
    refused(pipeline_folder, "no such folder.*lalrm.*train", lalrm=tmp_path / "none")
    other = LinearCodec(LinearCodecConfig(latent_channels=8))
    other.save_pretrained(tmp_path / "codec")
    refused(
        pipeline_folder, "4 channels, but the autoencoder's have 8", autoencoder=tmp_path / "codec"
    )
    LaLRM(LaLRMConfig(latent_channels=8, width=16, depth=1, heads=2)).save_pretrained(
        tmp_path / "lalrm"
    )
    refused(
        pipeline_folder,
        "LaLRM reads latents of 8 channels, but the autoencoder's have 4",
        lalrm=tmp_path / "lalrm",
    )
    refused(pipeline_folder, "text encoder", text_encoder=pipeline_folder)

    copy = tmp_path / "copy"
    shutil.copytree(pipeline_folder, copy)
    content = json.loads((copy / PIPELINE_FILE).read_text())
    for change, message in (
        ({"kind": "other"}, "key 'kind'"),
        ({"parts": {**content["parts"], "lalrn": "x"}}, "key 'parts.lalrn'"),
        ({"sampling": {"steps": 0}}, "key 'sampling.steps'"),
    ):
        (copy / PIPELINE_FILE).write_text(json.dumps({**content, **change}))
        refused(copy, message)
    (copy / PIPELINE_FILE).write_text("{")
    refused(copy, "not valid JSON")


def test_prompts_reach_a_model_with_a_text_encoder(pipeline_folder, image, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word: number for number, word in enumerate(["<pad>", "</s>", "a", "cat", "blur"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    fast.save_pretrained(tmp_path / "text" / "tokenizer")
    torch.manual_seed(0)
    settings = T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    encoder = T5EncoderModel(settings)
    torch.nn.init.constant_(encoder.encoder.final_layer_norm.weight, 30)
    encoder.save_pretrained(tmp_path / "text" / "text_encoder")
    parts = PartFolders(text_encoder=tmp_path / "text")
    pipeline = ImageToScenePipeline.from_pretrained(pipeline_folder, parts=parts)

    def latents(**options):
        guidance = GuidanceConfig(text=options.pop("guidance", 1.0))
        sampling = SamplingConfig(steps=2, guidance=guidance)
        return pipeline(image, "orbit", sampling=sampling, **options).latents[0]

    plain, cat = latents(), latents(prompt="a cat")
    assert not torch.allclose(plain, cat, atol=1e-4)
    assert torch.equal(latents(prompt=""), plain)
    strong = latents(prompt="a cat", guidance=6.0)
    assert not torch.allclose(strong, cat, atol=1e-4)
    assert not torch.allclose(
        latents(prompt="a cat", negative_prompt="blur", guidance=6.0), strong, atol=1e-4
    )
    pipeline.save_pretrained(tmp_path / "saved")
    again = ImageToScenePipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(image, "orbit", prompt="a cat").latents[0], cat)

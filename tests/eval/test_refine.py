"""The `refine` command from the outside."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.importers.images import write_image
from data.importers.nerfstudio import write_nerfstudio
from data.importers.path_json import save_camera_path
from data.importers.video import write_video
from eval import refine, refine_run, refine_steps
from eval.cameras.path_error import rotation_angles
from eval.pages.refine_outputs import FILES
from eval.unfinished_folder import UNFINISHED
from models.gaussians import Gaussians
from models.rendering.render import render
from models.scenes.ply import load_ply, save_ply
from train.distillation.refine import Refinement
from train.fitting.optimiser import SceneOptimiser
from train.fitting.poses import rigid_motion

GREY = torch.full((3,), 0.5)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A short, small flight; everything else as users have it."""
    monkeypatch.setattr("eval.pages.flythrough.FPS", 2)
    monkeypatch.setattr("eval.pages.flythrough.PICTURE_HEIGHT", 32)


@pytest.fixture(scope="module")
def truth() -> Gaussians:
    g = torch.Generator().manual_seed(0)
    place, depth = torch.rand(400, 2, generator=g) - 0.5, 0.8 + 0.5 * torch.rand(400, generator=g)
    return Gaussians(
        means=torch.cat([1.3 * place * depth[:, None], depth[:, None]], dim=1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(400, 1),
        scales=torch.full((400, 3), 0.04),
        opacities=torch.full((400,), 0.8),
        colors=torch.cat([place + 0.5, torch.rand(400, 1, generator=g)], dim=1),
    )


@pytest.fixture
def made(truth, tmp_path) -> dict[str, Path]:
    """A damaged scene with its path, as `generate` leaves it, the image, and the true frames as a video."""
    folder = tmp_path / "scene"
    folder.mkdir()
    g = torch.Generator().manual_seed(1)
    damaged = Gaussians(
        truth.means,
        truth.quats,
        truth.scales,
        truth.opacities * 0.7,
        (truth.colors + 0.15 * torch.randn(400, 3, generator=g)).clamp(0, 1),
    )
    save_ply(damaged, folder / "scene.ply")
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    path = make_path("truck", Cameras(torch.eye(4)[None], lens, 32, 48), 9, 0.3)
    save_camera_path(path, folder / "camera_path.json")
    frames = render(truth, path, background=GREY).frames.clamp(0, 1)
    write_image(frames[0], tmp_path / "photo.png")
    write_video(frames, folder / "video.mp4", 8)
    return {"scene": folder, "image": tmp_path / "photo.png", "out": tmp_path / "refined"}


def run(made: dict[str, Path], *more: object) -> None:
    words = [made["scene"], "--image", made["image"], "--out", made["out"], *more]
    assert refine.main([str(word) for word in words]) == 0


def test_frames_alone_mend_a_scene_and_all_is_written(made, capsys):
    run(made, "--frames", made["scene"] / "video.mp4", "--prior", "none", "--steps", "40",
        "--set", "rates.colors=0.02")  # fmt: skip
    out = made["out"]
    assert {path.name for path in out.iterdir()} == {*FILES, "report.html"}
    told = " ".join(capsys.readouterr().out.split())
    assert "kept: the refined scene" in told and str(out / "report.html") in told
    assert "rasteriser" in told and "held out" in told and "peak memory" in told
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["scores"]["before"]) == {"input", "frames shown", "frames held out"}
    gain = metrics["held_out_psnr"][1] - metrics["held_out_psnr"][0]
    assert gain > 1 and len(metrics["losses"]["input"]) == 40
    assert not torch.equal(
        load_ply(out / "scene.ply").colors, load_ply(made["scene"] / "scene.ply").colors
    )
    with pytest.raises(UserError, match=r"exists.*--out"):
        run(made, "--prior", "none")


@pytest.mark.parametrize(
    ("how", "losses"),
    [
        ((), {"prior", "input"}),
        (("--redraw", "--set", "redraw.denoise_steps=2"), {"redrawn", "input"}),
    ],
)
def test_the_video_prior_refines_and_equal_seeds_give_equal_scenes(
    made, pipeline_folder, how, losses
):
    options = ("--pipeline", pipeline_folder, "--steps", 3, "--keep", "refined", *how)
    run(made, *options)
    again = {**made, "out": made["out"].with_name("again")}
    run(again, *options)
    scenes = [load_ply(some["out"] / "scene.ply") for some in (made, again)]
    assert torch.equal(scenes[0].means, scenes[1].means)
    metrics = json.loads((made["out"] / "metrics.json").read_text())
    assert {"rasteriser", "prior", "optimiser"} <= set(metrics["seconds"])
    assert set(metrics["losses"]) == losses


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ((), 60),
        (("--redraw",), 200),
        (("--set", "redraw.denoise_steps=5"), 200),
        (("--prior", "none"), 200),
        (("--prior", "some/model"), 500),
        (("--redraw", "--steps", "7"), 7),
        (("--set", "iterations=8"), 8),
    ],
)
def test_how_long_it_takes_depends_on_what_it_does(words, steps):
    args = refine.build_parser().parse_args(["scene", "--image", "photo.png", *words])
    config = refine_run.config_of(args)
    assert config.iterations == steps
    assert (config.redraw is not None) == any("redraw" in word for word in words)


def test_image_priors_refine(made, stable_diffusion, zero123):
    for name, options in (
        ("text", ("--prior", stable_diffusion, "--prompt", "a ab")),
        ("pose", ("--prior", zero123)),
    ):
        some = {**made, "out": made["out"].with_name(name)}
        run(some, *options, "--steps", 2, "--keep", "refined")
        metrics = json.loads((some["out"] / "metrics.json").read_text())
        assert len(metrics["losses"]["prior"]) == 2
    with pytest.raises(UserError, match="leave --prompt out"):
        run(made, "--prior", zero123, "--prompt", "a")


def test_the_video_beside_a_scene_judges_and_is_not_looked_at(made, truth):
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    path = make_path("truck", Cameras(torch.eye(4)[None], lens, 32, 48), 9, 0.3)
    frames = render(truth, path, background=GREY).frames.clamp(0, 1)
    write_nerfstudio(Clip(frames, path, "made", 9), made["scene"] / "clip")
    run(made, "--prior", "none", "--steps", 3)
    metrics = json.loads((made["out"] / "metrics.json").read_text())
    assert set(metrics["scores"]["before"]) == {"input", "frames held out"}
    assert set(metrics["losses"]) == {"input"}


def test_wrong_cameras_of_frames_move_towards_the_true_ones(made, truth, monkeypatch):
    """`--set poses={}`: the frames were taken elsewhere than the path says, and the cameras go there."""
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    said = make_path("truck", Cameras(torch.eye(4)[None], lens, 32, 48), 9, 0.3)
    noise = 0.02 * torch.randn(9, 6, generator=torch.Generator().manual_seed(4))
    noise[0] = 0
    there = replace(said, world_to_camera=rigid_motion(noise) @ said.world_to_camera)
    frames = render(truth, there, background=GREY).frames.clamp(0, 1)
    write_nerfstudio(Clip(frames, there, "made", 9), made["scene"] / "taken_elsewhere")
    refinements = []
    run_with_previews = refine_run.run_with_previews

    def spy(refinement, *rest):
        refinements.append(refinement)
        return run_with_previews(refinement, *rest)

    monkeypatch.setattr(refine_run, "run_with_previews", spy)
    options = ("--frames", made["scene"] / "taken_elsewhere", "--prior", "none", "--steps", 120)
    run(made, *options, "--set", "poses={}", "--set", "deformation=null")
    (refinement,) = refinements
    found, shown = refinement.poses.cameras(), refinement.evidence.shown_frames

    def errors(cameras: Cameras) -> tuple[float, float]:
        """Distance [scene units] and angle [rad], means over the frames that steps look at."""
        turns = cameras.world_to_camera[:, :3, :3] @ there.world_to_camera[:, :3, :3].mT
        apart = (cameras.positions - there.positions).norm(dim=-1)
        return float(apart[shown].mean()), float(rotation_angles(turns.double())[shown].mean())

    before, after = errors(said), errors(found)
    assert after[0] < 0.75 * before[0] and after[1] < 0.75 * before[1], (before, after)
    run({**made, "out": made["out"].with_name("trusted")}, *options)
    assert refinements[1].poses is None


def test_a_scene_that_got_worse_is_not_kept(made):
    run(made, "--prior", "none", "--steps", 3, "--set", "rates.colors=1", "--set", "final_rate=1")
    metrics = json.loads((made["out"] / "metrics.json").read_text())
    assert metrics["held_out_psnr"][1] < metrics["held_out_psnr"][0]
    assert metrics["kept"] == "the scene as it was"
    kept, before = load_ply(made["out"] / "scene.ply"), load_ply(made["scene"] / "scene.ply")
    assert torch.allclose(kept.colors, before.colors, atol=1e-6)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_stopped_run_goes_on_and_ends_where_it_would_have(
    made, monkeypatch, capsys, number, raised
):
    options = ("--prior", "none", "--frames", made["scene"] / "video.mp4", "--steps", 8,
               "--keep", "refined", "--set", "prune_every=5")  # fmt: skip
    whole = {**made, "out": made["out"].with_name("whole")}
    run(whole, *options)
    keep_rows = SceneOptimiser.keep_rows

    def stop(self, rows):
        """As if the signal came in the midst of pruning, with some of the tensors replaced."""
        if self.num_steps == 5:
            os.kill(os.getpid(), number)
        keep_rows(self, rows)

    monkeypatch.setattr(SceneOptimiser, "keep_rows", stop)
    with pytest.raises(raised):
        run(made, *options)
    assert {path.name for path in made["out"].iterdir()} == {UNFINISHED, "preview.png"}
    monkeypatch.setattr(SceneOptimiser, "keep_rows", keep_rows)
    (made["scene"] / "notes.txt").write_text("what else lies beside the scene does not count")
    with pytest.raises(UserError, match="other settings: seed"):
        run(made, *options, "--seed", 1)
    capsys.readouterr()
    run(made, *options)
    assert "going on from step 5 of 8" in capsys.readouterr().err
    scenes = [load_ply(some["out"] / "scene.ply") for some in (made, whole)]
    for name, value in scenes[0].tensors().items():
        assert torch.equal(value, scenes[1].tensors()[name]), name
    assert not (made["out"] / UNFINISHED).exists()


@pytest.mark.usefixtures("interruptible")
def test_a_damaged_state_is_refused(made, monkeypatch):
    step = Refinement.step

    def stop(self):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Refinement, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(made, "--prior", "none")
    state = made["out"] / UNFINISHED / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-100] ^= 1
    state.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        run(made, "--prior", "none")


def test_bad_input_is_told_and_nothing_is_written(made, truth, tmp_path, pipeline_folder):
    def refused(message: str, *more: object, **changed: Path) -> None:
        with pytest.raises(UserError, match=message):
            run({**made, **changed}, *more)
        assert not made["out"].exists()

    alone = tmp_path / "alone.ply"
    save_ply(truth, alone)
    refused("no cameras beside it", scene=alone)
    parts = truth.tensors()
    for name, broken, message in (
        ("faint", {**parts, "opacities": truth.opacities * 1e-4}, "transparent"),
        ("exploded", {**parts, "scales": truth.scales * 1e4}, "exploded"),
        (
            "empty",
            {part: value[:0] for part, value in parts.items()},
            "holds no Gaussians",
        ),
    ):
        file = tmp_path / f"{name}.ply"
        save_ply(Gaussians(**broken), file)
        refused(message, "--cameras", made["scene"] / "camera_path.json", scene=file)
    other = tmp_path / "other.png"
    lens = intrinsics_from_fov(45.0, 32, 48)[None]
    camera = Cameras(torch.eye(4)[None], lens, 32, 48)
    picture = render(truth, camera, background=GREY).frames[0].clamp(0, 1)
    write_image(picture.flip(-1).flip(-2), other)
    refused(r"other\.png is not what .*scene\.ply was made from", image=other)
    write_video(torch.rand(5, 3, 32, 48), tmp_path / "short.mp4", 8)
    refused("has 5 frames, but the path .* 9 cameras", "--frames", tmp_path / "short.mp4")
    refused("--prompt has no effect", "--prompt", "x", "--pipeline", pipeline_folder)
    refused("say it with --prompt", "--prior", "some/model")
    refused("64x96.*32x48", "--steps", 3)  # the bundled pipeline
    refused("iterationz", "--set", "iterationz=4")
    refused("--guidance is -1, expected 0 or more", "--guidance", -1)
    refused("--pipeline is for the video model", "--prior", "none", "--pipeline", pipeline_folder)
    refused("--offload is for `generate`", "--offload", "model")
    for number in range(2):
        write_video(torch.rand(9, 3, 32, 48), tmp_path / "clips" / f"{number}.mp4", 8)
    refused("--redraw needs a prior", "--redraw", "--prior", "none")
    refused("--prompt needs a prior", "--prompt", "a house", "--prior", "none")
    refused("--guidance needs a prior", "--guidance", 3, "--prior", "none")
    refused("holds several clips", "--frames", tmp_path / "clips")


def test_full_memory_is_told_with_what_would_help(made, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("eval.refine_run.open_prior", full)
    with pytest.raises(UserError, match=r"full; try --one-by-one, or --dtype bfloat16$"):
        run(made)
    with pytest.raises(UserError, match="full; try a smaller model"):
        run(made, "--prior", "none")


def test_previews_show_before_and_now(made, monkeypatch):
    seen = []
    preview = refine_steps.preview

    def spy(*args):
        seen.append(preview(*args))
        return seen[-1]

    monkeypatch.setattr(refine_steps, "preview", spy)
    run(made, "--prior", "none", "--steps", 20, "--set", "rates.colors=0.02")
    assert len(seen) == 10 and seen[0].shape == (3, 64, 5 * 48)
    assert torch.equal(seen[0][:, :32], seen[9][:, :32])
    assert not torch.equal(seen[0][:, 32:], seen[9][:, 32:])

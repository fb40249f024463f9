"""The `mesh` command from the outside."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.images import write_image
from data.importers.path_json import save_camera_path
from data.importers.video import iterate_video
from eval import mesh
from eval.pages.mesh_outputs import FILES
from eval.pages.texture_outputs import FILES as TEXTURE_FILES
from eval.pages.texture_outputs import HEADING as TEXTURE_HEADING
from eval.reconstruction import BACKGROUND
from eval.scene_source import open_scene
from models.gaussians import Gaussians
from models.meshing import texture_denoising
from models.priors.oracle import OraclePrior
from models.rendering.render import render
from models.scenes.ply import save_ply

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "--num-views", "9", "--size", "32x48", "--grid", "48", "--faces", "2000", "--texture", "128",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A short, small flight; everything else as users have it."""
    monkeypatch.setattr("eval.pages.flythrough.FPS", 2)
    monkeypatch.setattr("eval.mesh_views.NUM_FLIGHT", 4)
    monkeypatch.setattr("eval.pages.mesh_outputs.PICTURE_HEIGHT", 32)


def ball(count: int, centre: tuple[float, float, float], radius: float) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return Gaussians(
        means=radius * normals + torch.tensor(centre),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        scales=torch.full((count, 3), 0.08 * radius),
        opacities=torch.full((count,), 0.9),
        colors=(0.5 + 0.4 * normals),
    )


@pytest.fixture
def scene(tmp_path) -> Path:
    """A folder with a ball two units ahead of a path, as `generate` would leave it."""
    folder = tmp_path / "scene"
    folder.mkdir()
    save_ply(ball(2000, (0, 0, 2.0), 0.8), folder / "scene.ply")
    lens = intrinsics_from_fov(45.0, 16, 24)[None]
    path = make_path("orbit", Cameras(torch.eye(4)[None], lens, 16, 24), 5, 20)
    save_camera_path(path, folder / "camera_path.json")
    return folder


def run(*arguments: object) -> None:
    assert mesh.main([str(word) for word in arguments]) == 0


def test_a_scene_becomes_all_that_is_promised(scene, tmp_path, capsys):
    out = tmp_path / "mesh"
    run(scene, "--out", out, *QUICK)
    assert {path.name for path in out.iterdir()} == {*FILES, "report.html"}
    told = capsys.readouterr()
    assert str(out / "report.html") in told.out
    assert "5 along the scene's path, 3 beside it" in " ".join(told.err.split())
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["scores"]) == {"used", "between", "beside"}
    assert metrics["scores"]["between"]["psnr"] > 20 and not metrics["watertight"]
    assert 200 < metrics["num_faces"] <= 2000 and metrics["method"] == "depth"
    assert {"load", "see the surface", "surface", "texture"} <= set(metrics["seconds"])
    loaded = trimesh.load(out / "mesh.glb", force="mesh")
    assert loaded.bounds[1][2] < -1.0  # ahead is -z
    assert len(list(iterate_video(out / "flight.mp4"))) == 8  # seconds, at half of 2 a second
    page = (out / "report.html").read_text()
    assert "its shape" in page and "mesh.glb" in page

    before = (out / "mesh.glb").read_bytes()
    with pytest.raises(UserError, match=r"exists.*--out"):
        run(scene, "--out", out, *QUICK)
    assert (out / "mesh.glb").read_bytes() == before


@pytest.mark.slow
def test_an_object_without_cameras_is_seen_from_all_around(tmp_path, capsys):
    save_ply(ball(2000, (1, 2, 3), 0.5), tmp_path / "ball.ply")
    around = [*QUICK, "--views", "around", "--num-views", 16, "--size", "40x40"]
    out = tmp_path / "mesh"
    run(tmp_path / "ball.ply", "--out", out, *around)
    assert "16 views from all around" in capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["watertight"] and set(metrics["scores"]) == {"used", "other directions"}
    loaded = trimesh.load(out / "mesh.glb", force="mesh", process=False)
    assert loaded.visual.material.baseColorTexture.size == (128, 128)
    assert loaded.bounds.mean(axis=0) == pytest.approx([1, -2, -3], abs=0.02)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight
    # The Gaussians are balls themselves: they add a deviation of 0.08 radii.
    assert loaded.volume == pytest.approx(4 / 3 * math.pi * (1.08 * 0.5) ** 3, rel=0.05)

    again, density = tmp_path / "again", tmp_path / "density"
    run(tmp_path / "ball.ply", "--out", again, *around)
    for name in ("mesh.glb", "mesh.obj", "mesh.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    run(tmp_path / "ball.ply", "--out", density, "--method", "density", *around)
    assert json.loads((density / "metrics.json").read_text())["watertight"]


@pytest.mark.slow
def test_views_and_bounds_can_be_chosen(scene, tmp_path):
    out = tmp_path / "mesh"
    bounds = ["--bounds", -1, -1, 1, 0, 1, 3]
    run(scene, "--out", out, *QUICK, "--views", "both", "--steps", 0, *bounds)
    loaded = trimesh.load(out / "mesh.obj", force="mesh", process=False)
    assert loaded.bounds[1][0] <= 1e-4 and loaded.bounds[0][0] < -0.7
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["scores"]) == {"used", "between", "beside", "other directions"}


@pytest.fixture
def photo(scene) -> Path:
    """What the scene's first camera sees of it, brighter by a little."""
    source = open_scene(scene)
    assert source.cameras is not None
    path = source.cameras.resize(32, 48)
    save_camera_path(path, scene / "camera_path.json")
    behind = torch.full((3,), BACKGROUND)
    frame = render(source.gaussians, path.select(0), background=behind).frames[0]
    write_image((frame * 1.1).clamp(0, 1), scene / "photo.png")
    return scene / "photo.png"


def test_a_prior_draws_the_texture_anew_and_both_are_shown(
    scene, photo, pipeline_folder, tmp_path, capsys
):
    """The pipeline's weights are random: what it draws is worse, is told, and is not kept."""
    options = ["--prior", "video", "--image", photo, "--pipeline", pipeline_folder, "--rounds", 2]
    options += ["--denoise-steps", 2, "--noise", 0.5, 0.3, *QUICK]
    out, plain, forced = (tmp_path / name for name in ("mesh", "plain", "forced"))
    run(scene, "--out", out, *options)
    told = " ".join(capsys.readouterr().err.split())
    assert "kept: the texture as it was; held out, it went from" in told
    assert {path.name for path in out.iterdir()} == {*FILES, *TEXTURE_FILES, "report.html"}
    change = json.loads((out / "metrics.json").read_text())["texture"]
    assert change["held_out_psnr"][1] < change["held_out_psnr"][0]
    assert set(change["psnr_against_scene"]) == {"used", "between", "beside"}
    before, after = change["psnr_against_scene"]["between"]
    assert before > 20 and after < before and change["config"]["noise"] == [0.5, 0.3]
    assert TEXTURE_HEADING in (out / "report.html").read_text()
    run(scene, "--out", plain, *QUICK)
    assert (out / "mesh.glb").read_bytes() == (plain / "mesh.glb").read_bytes()
    assert not (plain / "texture_before_after.png").exists()

    run(scene, "--out", forced, *options, "--keep", "refined")
    assert (forced / "mesh.png").read_bytes() != (plain / "mesh.png").read_bytes()
    kept = json.loads((forced / "metrics.json").read_text())
    assert kept["texture"]["kept"] == "the prior's texture"
    assert kept["scores"]["between"]["psnr"] == pytest.approx(after)


@pytest.fixture
def oracle(scene, photo, monkeypatch) -> list[object]:
    """Options for a prior that knows the truth, which is brighter than the scene, as the image is."""
    source = open_scene(scene)

    def truth(cameras: Cameras) -> torch.Tensor:
        behind = torch.full((3,), BACKGROUND)
        return (render(source.gaussians, cameras, background=behind).frames * 1.1).clamp(0, 1)

    signal = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)
    monkeypatch.setattr("eval.mesh_texture.open_prior", lambda *_, **__: OraclePrior(truth, signal))
    return ["--prior", "oracle", "--image", photo, "--rounds", 2, *QUICK]


def test_a_prior_that_knows_better_is_kept(scene, oracle, tmp_path, capsys):
    out = tmp_path / "mesh"
    run(scene, "--out", out, *oracle)
    change = json.loads((out / "metrics.json").read_text())["texture"]
    assert change["held_out_psnr"][1] > change["held_out_psnr"][0] + 1
    assert change["kept"] == "the prior's texture"
    assert "kept: the prior's texture; held out" in " ".join(capsys.readouterr().err.split())


def test_a_stopped_run_goes_on_after_the_last_stage_that_was_done(
    scene, oracle, tmp_path, capsys, monkeypatch
):
    """Stopped while the texture is made, and between two of the prior's rounds; what comes out is the same."""
    whole, out = tmp_path / "whole", tmp_path / "mesh"
    run(scene, "--out", whole, *oracle)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("eval.mesh_run.texture_mesh", stop)
        with pytest.raises(KeyboardInterrupt):
            run(scene, "--out", out, *oracle)
    assert {path.name for path in out.iterdir()} == {"unfinished", "preview.png"}
    shape = (out / "preview.png").read_bytes()
    with pytest.raises(UserError, match="other settings: faces is not the same"):
        run(scene, "--out", out, *oracle, "--faces", 1000)

    denoised = texture_denoising.denoised_change
    rounds = []

    def second_round(*args: object) -> torch.Tensor:
        rounds.append(args[3])
        if rounds[-1] != rounds[0]:
            raise KeyboardInterrupt
        return denoised(*args)

    with monkeypatch.context() as stopped:
        stopped.setattr("eval.mesh_run.extract_surface", None)
        stopped.setattr("models.meshing.texture_denoising.denoised_change", second_round)
        with pytest.raises(KeyboardInterrupt):
            run(scene, "--out", out, *oracle)
    assert (out / "preview.png").read_bytes() != shape
    capsys.readouterr()
    monkeypatch.setattr("eval.mesh_run.texture_mesh", None)
    run(scene, "--out", out, *oracle)
    told = " ".join(capsys.readouterr().err.split())
    assert "going on; done before: surface, texture, texture by the prior" in told
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("mesh.glb", "mesh.obj", "mesh.png", "texture_before_after.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    seconds = json.loads((out / "metrics.json").read_text())["seconds"]
    assert all(seconds[name] > 0 for name in ("surface", "texture", "texture by the prior"))


@pytest.mark.slow
def test_image_priors_draw_textures_too(scene, photo, stable_diffusion, zero123, tmp_path, capsys):
    words, posed, around = (tmp_path / name for name in ("words", "posed", "around"))
    told = ["--prior", stable_diffusion, "--prompt", "a ab", "--rounds", 1, "--denoise-steps", 2]
    run(scene, "--out", words, *told, *QUICK)
    assert "nothing tells whether it is better" in " ".join(capsys.readouterr().err.split())
    change = json.loads((words / "metrics.json").read_text())["texture"]
    assert change["held_out_psnr"] is None and change["kept"] == "the prior's texture"
    run(scene, "--out", posed, "--prior", zero123, "--image", photo, "--rounds", 1, *QUICK)
    run(scene / "scene.ply", "--views", "around", "--out", around, *told, *QUICK)
    assert (around / "texture_before_after.png").is_file()


def test_priors_that_do_not_fit_are_refused_before_anything_is_made(
    scene, photo, pipeline_folder, stable_diffusion, zero123, tmp_path, monkeypatch
):
    def nothing_is_made(*_: object) -> None:
        raise AssertionError("views were rendered")

    monkeypatch.setattr("eval.mesh_run.see_surface", nothing_is_made)
    out, alone, other = tmp_path / "mesh", tmp_path / "alone.ply", tmp_path / "other.png"
    save_ply(ball(2000, (0, 0, 2.0), 0.8), alone)
    noise = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    write_image(noise, other)
    small = ["--pipeline", pipeline_folder]
    video = ["--prior", "video", "--image", photo]
    cases = [
        ([scene, "--prior", "video", *small], "is shown the image.*--image"),
        ([scene, "--prior", zero123], "is shown the image.*--image"),
        ([scene, "--prior", stable_diffusion], "say it with --prompt"),
        ([scene, *video], "makes frames of 64x96, but the input is 32x48"),
        ([scene, *video, *small, "--prompt", "x"], "--prompt has no effect"),
        ([scene, "--prior", "video", "--image", other, *small], r"other\.png is not what"),
        ([scene, "--image", photo], "--image has no effect without a prior"),
        ([scene, "--prior", "video", "--image", tmp_path / "none.png", *small], r"none\.png"),
        ([scene, "--level", 0.5], "--level .* has no effect without --method density"),
        ([scene, "--denoise-steps", 3], "--denoise-steps has no effect without a prior"),
        ([scene, *video, *small, "--noise", 0.1, 0.4], "--noise is .*last <= first"),
        ([alone, "--views", "around", *video, *small], r"alone\.ply has no cameras beside it"),
        ([scene, "--prior", tmp_path, "--prompt", "x"], "has no tokenizer/"),
    ]
    for arguments, words in cases:
        with pytest.raises(UserError, match=words):
            run(*arguments, "--out", out, *QUICK)
        assert not out.exists() and not out.with_name("mesh.tmp").exists()
    monkeypatch.setattr("eval.mesh_run.memory_gib", lambda: (16.0, 8.0))
    with pytest.raises(UserError, match=r"texture of 8192x8192 needs .*--texture \d+ would fit"):
        run(scene, "--out", out, "--texture", 8192)


def test_what_makes_no_mesh_is_refused_and_leaves_nothing(scene, tmp_path, monkeypatch):
    out = tmp_path / "mesh"
    plain = tmp_path / "plain.ply"
    save_ply(ball(2000, (0, 0, 2.0), 0.8), plain)
    faint = ball(200, (0, 0, 2.0), 0.8)
    save_ply(replace(faint, opacities=faint.opacities * 1e-3), tmp_path / "faint.ply")
    save_ply(replace(faint, means=faint.means * 1e30), tmp_path / "apart.ply")
    save_ply(replace(faint, scales=faint.scales * 1e30), tmp_path / "swollen.ply")
    save_ply(faint.select(faint.opacities > 1), tmp_path / "empty.ply")
    save_ply(faint, tmp_path / "nan.ply")
    content = bytearray((tmp_path / "nan.ply").read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "nan.ply").write_bytes(content)
    (tmp_path / "none.ply").write_bytes(b"ply\nformat ascii 1.0\n")
    lens = intrinsics_from_fov(45.0, 16, 24)[None]
    start = torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None]
    save_camera_path(make_path("pan", Cameras(start, lens, 16, 24), 4, 5), tmp_path / "away.json")
    cases = [
        ([tmp_path / "missing.ply"], r"missing\.ply"),
        ([tmp_path / "none.ply"], r"none\.ply"),
        ([tmp_path], "holds no scene"),
        ([tmp_path / "faint.ply"], "transparent"),
        ([tmp_path / "empty.ply"], "holds no Gaussians"),
        ([tmp_path / "nan.ply"], "is NaN"),
        ([tmp_path / "apart.ply", "--views", "around"], "shows nothing.*has flown apart"),
        ([tmp_path / "swollen.ply"], "may have exploded"),
        ([plain], r"plain\.ply has no cameras beside it.*--cameras.*--views around"),
        ([plain, "--cameras", tmp_path / "away.json"], "shows nothing"),
        ([scene, "--bounds", 1, 0, 0, 1, 2, 3], r"bounds of the grid go from \(1, 0, 0\)"),
        ([scene, "--bounds", 5, 5, 5, 6, 6, 6], "no surface"),
        ([scene, "--method", "density", "--level", 1e9], "no surface"),
        ([scene, "--method", "density", "--level", -1], "--level is -1"),
        ([scene, "--texture", 4], "--texture is 4"),
        ([scene, "--device", "tpu9"], "--device is 'tpu9'"),
    ]
    for arguments, words in cases:
        with pytest.raises(UserError, match=words):
            run(*QUICK, *arguments, "--out", out)
        assert not out.exists() and not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr("eval.mesh_run.memory_gib", lambda: (2.0, 1.0))
    with pytest.raises(
        UserError, match=r"needs .* GiB of memory, and 0\.\d GiB are free; --grid \d+ would fit"
    ):
        run(scene, "--out", out, "--num-views", 4, "--grid", 600, "--texture", 128)
    assert not out.exists()


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "nan.ply").write_bytes(b"no ply")
    found = subprocess.run(
        [sys.executable, "-m", "eval.mesh", str(tmp_path / "nan.ply"), "--out", str(tmp_path / "o")],
        cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith("error: ") and "Traceback" not in found.stderr
    assert not (tmp_path / "o").exists()

"""The commands that make and show one scene, from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from configs.errors import UserError
from data.importers.nerfstudio import write_nerfstudio
from data.importers.video import iterate_video
from eval import demo, demo_run, reconstruct, reconstruct_run, view
from eval.pages import generated_outputs, scene_outputs
from eval.scores.image_to_scene import METHODS
from models.gaussians import Gaussians
from models.scenes.ply import load_ply, save_ply
from train.fitting.fit import FitConfig

ROOT = Path(__file__).resolve().parents[2]
RECONSTRUCTED = {*scene_outputs.FILES, "report.html"}
GENERATED = {*(Path(name).parts[0] for name in generated_outputs.FILES), "report.html"}


@pytest.fixture
def quick(monkeypatch):
    """A short fit and a small, short flight; everything else as users have it."""
    monkeypatch.setattr(reconstruct_run, "FIT", FitConfig(iterations=1))
    monkeypatch.setattr("eval.pages.flythrough.PICTURE_HEIGHT", 32)
    monkeypatch.setattr("eval.pages.flythrough.FPS", 4)


@pytest.fixture
def models(weights) -> list[str]:
    return ["--autoencoder", str(weights["autoencoder"]), "--lalrm", str(weights["lalrm"])]


def test_demo_writes_all_it_promises_and_overwrites_only_its_own(
    quick, pipeline_folder, tmp_path, capsys
):
    out = tmp_path / "demo"
    command = ["--out", str(out), "--pipeline", str(pipeline_folder)]
    assert demo.main(command) == 0
    assert {path.name for path in out.iterdir()} == GENERATED
    told = capsys.readouterr().out
    assert str(out / "report.html") in told
    for word in (*METHODS.values(), "Gaussians", "tiny"):
        assert word in " ".join(told.split())

    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["psnr"]) == set(METHODS) == set(metrics["ssim"])
    for name, groups in metrics["psnr"].items():
        assert set(groups) == ({"path"} if name == "video" else {"path", "beside"})
    gaussians = load_ply(out / "scene.ply")
    assert gaussians.num_gaussians == metrics["num_gaussians"] == 9 * 16 * 24
    assert len(list(iterate_video(out / "video.mp4"))) == 9
    frames = list(iterate_video(out / "flight.mp4"))
    assert len(frames) == 8 * 4 and frames[0].shape == (3, 32, 96)

    assert demo.main(command) == 0  # over its own output
    again = json.loads((out / "metrics.json").read_text())
    assert again["psnr"] == metrics["psnr"] and again["ssim"] == metrics["ssim"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]

    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        demo.main(command)
    assert (out / "notes.txt").read_text() == "mine"


def test_demo_that_fails_leaves_the_last_one_alone(pipeline_folder, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "report.html").write_text("the last one")

    def fail(*args, **kwargs):
        raise RuntimeError("broken in the middle")

    monkeypatch.setattr(demo_run, "write_generated", fail)
    with pytest.raises(RuntimeError):
        demo.main(["--out", str(out), "--pipeline", str(pipeline_folder)])
    assert (out / "report.html").read_text() == "the last one"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_reconstruct_turns_a_capture_into_a_scene_and_never_overwrites(
    quick, models, clip, tmp_path, capsys
):
    write_nerfstudio(clip, tmp_path / "capture")
    out = tmp_path / "scene"
    command = [str(tmp_path / "capture"), "--out", str(out), "--frames", "9", "--size", "32x48"]
    assert reconstruct.main([*command, *models]) == 0
    assert {path.name for path in out.iterdir()} == RECONSTRUCTED
    told = capsys.readouterr().out
    assert "9 of 32x48" in told and str(out / "report.html") in told
    before = (out / "scene.ply").read_bytes()
    with pytest.raises(UserError, match=r"exists.*--out"):
        reconstruct.main([*command, *models])
    assert (out / "scene.ply").read_bytes() == before


def test_missing_or_unfitting_weights_leave_nothing_behind(quick, weights, clip, tmp_path):
    write_nerfstudio(clip, tmp_path / "capture")
    command = [str(tmp_path / "capture"), "--out", str(tmp_path / "scene")]
    with pytest.raises(UserError, match="no such weights folder"):
        reconstruct.main([*command, "--lalrm", str(tmp_path / "none")])
    unfitting = ["--autoencoder", weights["other_autoencoder"], "--lalrm", weights["lalrm"]]
    with pytest.raises(UserError, match="channels"):
        reconstruct.main([*command, *map(str, unfitting)])
    assert not (tmp_path / "scene").exists()


def test_view_serves_a_scene_and_refuses_a_damaged_one(tmp_path, clip, capsys, monkeypatch):
    import torch

    count = 50
    scene = Gaussians(
        means=torch.rand(count, 3) + torch.tensor([0.0, 0.0, 1.0]),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4).clone(),
        scales=torch.full((count, 3), 0.05),
        opacities=torch.full((count,), 0.9),
        colors=torch.rand(count, 3),
    )
    path = tmp_path / "scene.ply"
    save_ply(scene, path)
    pages = []

    def look(seconds):
        address = capsys.readouterr().out.split(" at ")[1].split()[0]
        pages.append(urllib.request.urlopen(address, timeout=20).read())

    monkeypatch.setattr(view, "_wait", look)
    assert view.main([str(path), "--port", "0"]) == 0
    assert b"<html" in pages[0]

    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"scene\.ply"):
        view.main([str(path)])
    with pytest.raises(UserError, match=r"none\.ply"):
        view.main([str(tmp_path / "none.ply")])


@pytest.mark.parametrize("command", ["demo", "generate", "reconstruct", "score", "view"])
def test_help_needs_no_heavy_import(command):
    """--help must answer at once, so nothing above `main` may import torch."""
    code = (
        f"import sys; from eval import {command}\n"
        f"try: {command}.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert f"./launch.sh {command}" in found.stdout


def test_a_users_mistake_is_one_sentence_and_exit_code_2(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "eval.view", str(tmp_path / "none.ply")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith("error: ") and "Traceback" not in found.stderr

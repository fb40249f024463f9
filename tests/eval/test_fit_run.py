"""`reconstruct --fit` and `--polish` from the outside."""

from __future__ import annotations

import json

import pytest
import torch

from configs.errors import UserError
from data.clips import Clip
from data.importers.nerfstudio import write_nerfstudio
from eval import fit_run, reconstruct
from models.rendering.render import render
from models.scenes.ply import load_ply
from train.fitting.capture import held_out_frames


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("eval.pages.flythrough.FPS", 2)
    monkeypatch.setattr("eval.pages.flythrough.PICTURE_HEIGHT", 32)


def test_fit_makes_a_scene_of_a_capture_without_a_model(clip, tmp_path, capsys):
    write_nerfstudio(clip, tmp_path / "capture")
    out = tmp_path / "scene"
    command = [
        str(tmp_path / "capture"), "--fit", "--out", str(out), "--size", "32x48",
        "--set", "iterations=60", "--set", "start.num_gaussians=1500", "--set", "density.start=20",
        "--set", "density.every=20", "--set", "density.max_gaussians=1600",
    ]  # fmt: skip
    assert reconstruct.main(command) == 0
    assert {path.name for path in out.iterdir()} == {*fit_run.FILES, "report.html"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["scores"]["fitted"]["psnr"] > 22 and metrics["scores"]["held out"]["psnr"] > 17
    assert 1500 < metrics["num_gaussians"] <= 1600
    assert "held out" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists"):
        reconstruct.main(command)


def test_polish_writes_the_polished_scene_and_shows_both(clip, weights, tmp_path, capsys):
    write_nerfstudio(clip, tmp_path / "capture")
    common = [
        str(tmp_path / "capture"), "--frames", "9", "--size", "32x48", "--no-fit",
        "--autoencoder", str(weights["autoencoder"]), "--lalrm", str(weights["lalrm"]),
    ]  # fmt: skip
    assert reconstruct.main([*common, "--out", str(tmp_path / "plain")]) == 0
    assert reconstruct.main([*common, "--out", str(tmp_path / "polished"), "--polish", "2"]) == 0
    assert "LaLRM, polished" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "polished" / "metrics.json").read_text())
    assert metrics["baselines"]["polish"]["psnr"]["seen"] > metrics["psnr"]["seen"]
    assert 1.5 < metrics["seconds"]["polish"] < 10
    scenes = [load_ply(tmp_path / name / "scene.ply") for name in ("plain", "polished")]
    first = clip.cameras.select(0)
    drawn = [render(s, first, background=torch.full((3,), 0.5)).frames for s in scenes]
    errors = [float((d - clip.frames[:1]).square().mean()) for d in drawn]
    assert errors[1] < errors[0]


def test_frames_cut_out_on_white_are_told_from_others(clip):
    assert not fit_run.is_cut_out(clip)
    white = clip.frames.clone()
    white[..., :16] = 1.0
    assert fit_run.is_cut_out(Clip(white, clip.cameras, "white", clip.num_path_frames))


def test_every_eighth_frame_is_held_out_and_never_the_first():
    fitted, held = held_out_frames(20)
    assert held == [4, 12] and sorted(fitted + held) == list(range(20))
    assert held_out_frames(4)[1] == [2] and held_out_frames(3)[1] == []


@pytest.mark.parametrize("wrong", ["0", "-1", "soon", "inf"])
def test_wrong_seconds_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        reconstruct.main(["capture", "--polish", wrong])
    assert "seconds above 0" in capsys.readouterr().err


def test_settings_of_a_fit_without_one_are_refused(tmp_path):
    with pytest.raises(UserError, match="--set is for --fit"):
        reconstruct.main([str(tmp_path), "--out", str(tmp_path / "o"), "--set", "iterations=3"])

"""`generate --prompt --prior`: a scene from words alone, with a pipeline of random weights."""

from __future__ import annotations

import json

import pytest
import torch

from configs.errors import UserError
from eval import generate
from eval.text_scene_run import FILES
from models.scenes.ply import load_ply

QUICK = ["--steps", "3", "--set", "start.num_gaussians=200", "--set", "start.views_at_once=2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("eval.text_scene_run.NUM_TURNTABLE", 4)


def test_words_become_a_scene(stable_diffusion, tmp_path, capsys):
    def run(name: str, *more: str) -> torch.Tensor:
        words = [
            "--prompt",
            "a ab",
            "--prior",
            str(stable_diffusion),
            "--out",
            str(tmp_path / name),
        ]
        assert generate.main([*words, *QUICK, *more]) == 0
        return load_ply(tmp_path / name / "scene.ply").means

    first = run("first")
    assert {p.name for p in (tmp_path / "first").iterdir()} == {*FILES, "report.html"}
    assert torch.equal(first, run("again"))
    assert not torch.equal(first, run("other", "--seed", "1"))
    assert str(tmp_path / "first" / "report.html") in capsys.readouterr().out
    metrics = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert metrics["prompt"] == "a ab" and metrics["num_gaussians"] == 200
    with pytest.raises(UserError, match="exists"):
        run("first")


def test_what_makes_no_sense_is_refused(stable_diffusion, tmp_path):
    out = ["--out", str(tmp_path / "out"), "--prior", str(stable_diffusion)]
    with pytest.raises(UserError, match="leave the image out"):
        generate.main(["photo.jpg", "--prompt", "a", *out])
    with pytest.raises(UserError, match="say it with --prompt"):
        generate.main(out)
    with pytest.raises(UserError, match="has no tokenizer/"):
        generate.main(["--prompt", "a", *out[:2], "--prior", str(tmp_path)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--path", "dolly"), ("--samples", "2"), ("--one-by-one",)])
def test_options_of_images_are_refused_for_words(option, capsys):
    with pytest.raises(SystemExit):
        generate.main(["--prompt", "a cat", "--prior", "some/model", *option])
    assert f"{option[0]} has no effect with --prior; leave it out" in capsys.readouterr().err

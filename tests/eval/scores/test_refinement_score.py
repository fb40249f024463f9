"""The recipe kind `refinement`: what it measures, keeps and sums up."""

from __future__ import annotations

import json

import pytest
import torch

from data.procedural.config import SceneConfig
from eval import score
from eval.scores import refinement_score
from eval.scores.refinement_score import (
    BEFORE,
    RefinementScoreConfig,
    kept,
    overall_gain,
    summarise,
    table_rows,
)


def methods(before: float, after: float, keeps: bool) -> dict:
    def scores(value: float) -> dict:
        return {"psnr": {"path": value, "beside": value - 2}, "ssim": {"path": 0.5, "beside": 0.4}}

    refined = {**scores(after), "held_out": [10.0, 11.0 if keeps else 9.0], "keeps_refined": keeps}
    return {BEFORE: scores(before), "prior": refined}


def test_what_is_kept_counts_and_a_scene_made_worse_is_counted():
    lines = [
        {"clip": 0, "methods": methods(20, 21, True)},
        {"clip": 1, "methods": methods(20, 18, False)},
        {"clip": 2, "methods": methods(20, 19.5, True)},
        {"clip": 3, "error": "no"},
    ]
    assert kept(lines[1]["methods"], "prior")["psnr"]["path"] == 20
    assert overall_gain(lines[2]["methods"], "prior") == pytest.approx(-0.5)
    summary = summarise(lines)
    found = summary["methods"]["prior"]
    assert summary["clips"] == 3 and found["num_worse"] == 1
    assert found["kept_share"] == pytest.approx(2 / 3)
    assert found["refined"]["psnr"]["path"] == pytest.approx(19.5)
    assert found["kept"]["psnr"]["path"] == pytest.approx((21 + 20 + 19.5) / 3, abs=1e-3)
    assert (found["smallest_gain"], found["largest_gain"]) == (-0.5, 1.0)
    header, rows = table_rows(summary)
    assert len(rows) == 3 and all(len(row) == len(header) for row in rows)


def test_the_command_scores_scenes_before_and_after(pipeline_folder, tmp_path, monkeypatch, capsys):
    scene = SceneConfig(height=32, width=48, num_frames=9, num_near=1, num_far=0, supersampling=1)
    index = {"seeds": [7, 8], "scene": scene.model_dump(mode="json")}
    (tmp_path / "two.json").write_text(json.dumps(index))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"kind: refinement\ndata: {tmp_path / 'two.json'}\npipeline: {pipeline_folder}\n"
        f"out: {tmp_path / 'out'}\nsettings:\n"
        "  prior: {refine: {iterations: 2}}\n"
        "  video: {prior: none, frames: true, refine: {iterations: 3}}\n"
    )
    monkeypatch.setattr(refinement_score, "NUM_SHOWN", 2)
    assert score.main([str(recipe)]) == 0
    assert "refined" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["methods"]) == {BEFORE, "prior", "video"} and summary["clips"] == 2
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()
    ]
    assert [set(line["methods"]) for line in lines] == [{BEFORE, "prior", "video"}] * 2
    for line in lines:
        for name in ("prior", "video"):
            held = line["methods"][name]["held_out"]
            assert line["methods"][name]["keeps_refined"] == (held[1] >= held[0])
    assert (tmp_path / "out" / "report.html").is_file()
    before = lines[0]["methods"][BEFORE]["psnr"]
    assert set(before) == {"path", "beside"} and torch.isfinite(torch.tensor(before["path"]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"settings": {"before": {}}}, "'before' is the scene that is refined"),
        ({"settings": {"a": {}}, "pictures_of": "b"}, "there is no setting 'b'; there are a"),
    ],
)
def test_names_that_would_be_mistaken_are_refused(given, told):
    recipe = {"kind": "refinement", "data": "seeds.json", "out": "out", **given}
    with pytest.raises(ValueError, match=told):
        RefinementScoreConfig.model_validate(recipe)

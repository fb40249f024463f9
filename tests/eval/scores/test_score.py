"""The score command: repeatable, goes on where it stopped, and never mixes two scores."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from configs.errors import UserError
from eval.score import main
from models.lalrm import LaLRM
from models.pretrained import weights_digest

FAST = [
    "baselines.fit_start.num_gaussians=300",
    "baselines.fit_settings.iterations=2",
]


@pytest.fixture
def recipe(tmp_path, weights, index_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"kind: reconstruction\nautoencoder: {weights['autoencoder']}\nlalrm: {weights['lalrm']}\ndata: {index_file}\n"
        f"out: {tmp_path / 'out'}\n"
    )
    return path


def run(recipe, *overrides) -> int:
    return main([str(recipe), *FAST, *overrides])


def test_summary_has_the_promised_keys_and_the_report_stands_alone(recipe, tmp_path, capsys):
    assert run(recipe, "num_clips=2") == 0
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    groups = {"seen", "unseen", "far"}
    for scores in (summary, *(summary["baselines"].values())):
        assert set(scores["psnr"]) == groups and set(scores["ssim"]) == groups
    assert set(summary["baselines"]) == {"copy", "median_depth", "polish", "fit", "autoencoder"}
    assert summary["views"]["seen"] == 18 and summary["views"]["unseen"] == 4
    assert set(summary["identity"]) == {
        "format", "clips", "autoencoder", "lalrm", "lpips", "settings",
    }  # fmt: skip
    assert summary["environment"]["packages"]["torch"] == torch.__version__
    assert {"encode", "reconstruct", "render", "fit"} <= set(summary["seconds_per_clip"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and 'src="http' not in page
    assert "LaLRM" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_to_the_same_lines(recipe, tmp_path):
    run(recipe, f"out={tmp_path / 'whole'}")
    run(recipe, "num_clips=1")
    lines = tmp_path / "out" / "clips.jsonl"
    first = lines.read_bytes()
    with lines.open("ab") as file:
        file.write(b'{"clip": 1, "sou')  # killed in the middle of a write
    run(recipe)
    assert lines.read_bytes().startswith(first)
    assert lines.read_bytes() == (tmp_path / "whole" / "clips.jsonl").read_bytes()
    means = [
        json.loads((tmp_path / name / "summary.json").read_text())["psnr"]
        for name in ("out", "whole")
    ]
    assert means[0] == means[1]


def test_other_weights_or_settings_are_not_mixed_into_a_score(recipe, weights, tmp_path):
    run(recipe, "num_clips=1")
    mine = tmp_path / "mine"
    torch.manual_seed(1)
    LaLRM(LaLRM.from_pretrained(weights["lalrm"]).config).save_pretrained(mine)
    with pytest.raises(UserError, match=r"other lalrm\).*out=.*restart=true"):
        run(recipe, "num_clips=1", f"lalrm={mine}")
    with pytest.raises(UserError, match="other settings"):
        run(recipe, "num_clips=1", "seed=3")
    before = (tmp_path / "out" / "clips.jsonl").read_bytes()
    assert run(recipe, "num_clips=1", f"lalrm={mine}", "restart=true") == 0
    assert (tmp_path / "out" / "clips.jsonl").read_bytes() != before


def test_a_folder_from_before_the_extras_is_refused(recipe, tmp_path):
    run(recipe, "num_clips=1")
    file = tmp_path / "out" / "identity.json"
    identity = json.loads(file.read_text())
    for name in ("format", "lpips"):
        del identity[name]
    file.write_text(json.dumps(identity))
    before = (tmp_path / "out" / "clips.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"another version .*other measures .*restart=true"):
        run(recipe)
    assert (tmp_path / "out" / "clips.jsonl").read_bytes() == before


def test_a_recipe_says_what_it_scores(recipe):
    with pytest.raises(
        UserError, match=r"kind: found 'vidoe', expected .*; the nearest is 'video'"
    ):
        run(recipe, "kind=vidoe")
    with pytest.raises(UserError, match="branches: unknown key"):
        run(recipe, "branches=null")


def test_the_hash_of_weights_sees_every_folder_below(tmp_path):
    (tmp_path / "transformer").mkdir()
    file = tmp_path / "transformer" / "model.safetensors"
    hashes = set()
    for content in (b"a", b"b"):
        file.write_bytes(content)
        (tmp_path / "README.md").write_bytes(content)
        hashes.add(weights_digest(tmp_path))
    (tmp_path / "README.md").write_text("longer")
    hashes.add(weights_digest(tmp_path))
    assert len(hashes) == 2


def test_a_folder_of_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no score"):
        run(recipe)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_shards_are_scored_and_a_damaged_clip_becomes_a_marked_row(recipe, clip, tmp_path, capsys):
    from data.shard_writing import write_shards

    shards = tmp_path / "shards"
    write_shards([clip, clip], shards)
    tar = next(shards.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 200] = bytes(200)
    tar.write_bytes(content)
    assert run(recipe, f"data={shards}") == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["clips"] == 1 and len(summary["failed"]) == 1
    assert "not scored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON file"),
        ('{"seeds": [1]}', "'scene'"),
        ('{"seeds": [], "scene": {}}', "empty"),
        ('{"seeds": [1], "scene": {"heigth": 64}}', "heigth"),
        (None, "no such file"),
    ],
)
def test_a_wrong_index_is_the_users_error(recipe, tmp_path, content, words):
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words):
        run(recipe, f"data={path}")


def test_missing_weights_are_the_users_error(recipe, tmp_path, weights):
    with pytest.raises(UserError, match="no such weights folder"):
        run(recipe, f"lalrm={tmp_path / 'none'}")
    broken = tmp_path / "broken"
    shutil.copytree(weights["lalrm"], broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        run(recipe, f"lalrm={broken}")
    assert not (tmp_path / "out").exists()

"""The validation of the consistency score: its cases, its verdicts, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.loader import load_config
from eval.consistency import trial as consistency_trial
from eval.consistency.trial import ConsistencyTrial, ConsistencyTrialConfig
from eval.consistency.trial_summary import summarise_trial
from eval.consistency_validation import main
from eval.scores.score_run import ScoreRun

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "configs/eval/consistency_validation.yaml"


@pytest.fixture
def overrides(tmp_path, monkeypatch) -> list[str]:
    """A trial of seconds: one small scene, few cases, short fits."""
    monkeypatch.chdir(ROOT)
    scene = {"height": 24, "width": 36, "num_frames": 9, "num_near": 0, "num_far": 0}
    index = tmp_path / "scenes.json"
    index.write_text(json.dumps({"seeds": [31], "scene": {**scene, "travel": [0.4, 0.6]}}))
    return [
        f"data={index}",
        f"captures=[{tmp_path}/nowhere]",
        f"out={tmp_path}/out",
        f"report={tmp_path}/page/consistency.md",
        "threads=1",
        "score.fit.passes=2",
        "score.seeds=[0]",
        "kinds=[flicker, recoloured]",
        "consistent_levels=[5]",
        "ranking={height: 24, width: 36, factor: 2, cases: [[clean, 0], [flicker, 5]]}",
    ]


def test_it_writes_a_page_with_numbers_and_names_what_it_left_out(overrides, tmp_path, capsys):
    assert main([str(RECIPE), *overrides]) == 0
    page = (tmp_path / "page/consistency.md").read_text()
    numbers = json.loads((tmp_path / "page/consistency.json").read_text())
    assert (
        "nowhere: no such folder here" in page and "nowhere is not here" in capsys.readouterr().out
    )
    assert "| scene 31 | flicker |" in page
    ladder = numbers["ladders"][0]
    assert ladder["levels"] == [0, 1, 2, 3, 4, 5] and len(ladder["psnr"]) == 6
    assert ladder["psnr"][0] > ladder["psnr"][5] + 2
    assert numbers["ranking"][0]["factor"] == 2 and numbers["ranking"][0]["pairs"] == 1
    assert {row["kind"] for row in numbers["consistent"]} == {"recoloured"}


def test_it_goes_on_where_it_stopped_and_gives_the_same_lines(overrides, tmp_path, monkeypatch):
    config = load_config(RECIPE, [*overrides, "ranking=null"], ConsistencyTrialConfig)
    run = ScoreRun(ConsistencyTrial(config))
    run.run()
    whole = run.lines_path.read_text()

    lines = whole.splitlines(keepends=True)
    run.lines_path.write_text("".join(lines[:3]) + lines[3][:10])
    calls = []
    original = consistency_trial.measure_consistency

    def counted(*args, **options):
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(consistency_trial, "measure_consistency", counted)
    again = ScoreRun(ConsistencyTrial(config))
    assert again.num_done == 3
    again.run()
    assert again.lines_path.read_text() == whole
    assert len(calls) == len(lines) - 3


def test_a_clip_that_cannot_be_scored_is_a_marked_row(overrides, tmp_path):
    scene = {"height": 24, "width": 36, "num_frames": 4, "num_near": 0, "num_far": 0}
    index = tmp_path / "short.json"
    index.write_text(json.dumps({"seeds": [31], "scene": scene}))
    short = [*overrides, f"data={index}", "ranking=null"]
    with pytest.raises(UserError, match="no case could be scored"):
        main([str(RECIPE), *short])
    lines = (tmp_path / "out/clips.jsonl").read_text().splitlines()
    assert "4 frames where at least 5" in json.loads(lines[0])["error"]


def test_wrong_cases_are_refused_by_name(overrides):
    for text, message in (
        ("kinds=[wobble]", "no perturbation 'wobble'"),
        ("ranking.cases=[[shift, 9]]", "shift: level 9"),
        ("ranking.cases=[[clean, 1]]", "clean: level 1"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(RECIPE, [*overrides, text], ConsistencyTrialConfig)


def line(kind: str, level: int, psnr: float, **other) -> dict:
    families = {"clean": "clean", "shift": "inconsistent", "input_shift": "input"}
    return {
        "group": "ladder",
        "clip": 0,
        "source": "scene 1",
        "family": families.get(kind, "consistent"),
        "kind": kind,
        "level": level,
        "strength": 1.0,
        "factor": 1,
        "psnr": psnr,
        "seed_psnr": [psnr],
        "squared_change": 0.001 * level,
        "held_out_psnr": psnr,
        "input_psnr": psnr,
        "fitted_psnr": psnr + 1,
        "gain_db": 9.0,
        "copy_psnr": 20.0,
        "overlap": 1.0,
        "travel": 0.5,
        "num_views": 24,
        "size": [64, 96],
        "sharpness": 0.1,
        "motion": 0.1,
        "remarks": [],
        "seconds": {"wall": 40.0, "cpu": 60.0},
        **other,
    }


BY_INPUT = "falls as the input view disagrees with the rest"
TOGETHER = (
    "the error of the predictions grows as the views were changed, in all clips and ways together"
)


def verdicts(lines: list[dict]) -> dict[str, bool | None]:
    claims = summarise_trial(lines)["claims"]
    return {row["claim"].split(":")[0]: row["holds"] for row in claims}


def test_a_clip_whose_input_view_is_not_judged_says_nothing_of_it():
    ladder = [line("clean", 0, 30.0)] + [line("input_shift", n, 30.0 + n) for n in range(1, 6)]
    assert verdicts(ladder)[BY_INPUT] is False
    unseen = [row | {"input_psnr": None} for row in ladder]
    assert verdicts(unseen)[BY_INPUT] is None
    falling = [row | {"source": "scene 2", "psnr": 60.0 - row["psnr"]} for row in ladder]
    claims = summarise_trial([*unseen, *falling])["claims"]
    lower = next(row for row in claims if row["claim"].startswith("is lower where the input"))
    assert (
        lower["holds"] is True and lower["found"] == "1 of 1, least 5.00 dB (scene 2, input_shift)"
    )
    row = next(row for row in claims if row["claim"].startswith(BY_INPUT))
    assert row["holds"] is True and row["found"].endswith("not judged in scene 1")


def test_verdicts_follow_the_scores():
    falling = [line("clean", 0, 30.0)]
    falling += [line("shift", level, 30.0 - level) for level in range(1, 6)]
    falling += [line("rescaled", 1, 29.9)]
    found = verdicts(falling)
    assert found["falls as views lose consistency"] is True
    assert found["falls at every step"] is True
    assert found["does not fall for a rescaled or mirrored scene"] is True
    assert found[BY_INPUT] is None and found[TOGETHER] is True
    assert found["ranks as a much longer fit does"] is None

    rising = [line("clean", 0, 30.0)]
    rising += [line("shift", level, 30.0 + level % 2) for level in range(1, 6)]
    rising += [line("rescaled", 1, 29.0)]
    found = verdicts(rising)
    assert found["falls as views lose consistency"] is False
    assert found["falls at every step"] is False
    assert found["does not fall for a rescaled or mirrored scene"] is False


def test_clips_are_compared_by_the_error_that_a_change_adds():
    """A tenth of the change costs a clip of 40 dB more decibels than the whole of it costs one of 20 dB."""
    ladders = []
    for source, before, changes in (
        ("scene 1", 1e-4, (1e-4, 4e-4)),
        ("scene 2", 1e-2, (1e-3, 4e-3)),
    ):
        errors = [before, *(before + change for change in changes)]
        for level, (error, change) in enumerate(zip(errors, (0.0, *changes), strict=True)):
            psnr = round(-10 * math.log10(error), 4)
            kind = "shift" if level else "clean"
            ladders.append(line(kind, level, psnr, source=source, squared_change=change))
    found = next(
        row for row in summarise_trial(ladders)["claims"] if row["claim"].startswith(TOGETHER)
    )
    assert found["holds"] is True and found["found"].startswith("1.000 over 6")
    swapped = [row | {"squared_change": 0.01 - row["squared_change"]} for row in ladders]
    assert verdicts(swapped)[TOGETHER] is False


def test_steps_tell_what_one_seed_would_have_shown():
    ladder = [line("clean", 0, 30.0)]
    ladder += [
        line("shift", level, 30.0 - level, seed_psnr=[30.0 + level]) for level in range(1, 6)
    ]
    claims = summarise_trial(ladder)["claims"]
    found = next(row["found"] for row in claims if row["claim"] == "falls at every step")
    assert found == "5 of 5 steps; 0 by the first seed's held-out views alone"


def test_ranking_compares_cases_pair_by_pair():
    cases = [("clean", 0), ("shift", 1), ("shift", 3)]
    short, long = (30.0, 28.0, 26.0), (33.0, 27.0, 29.0)
    rows = [
        line(kind, level, value, group="ranking", factor=factor)
        for factor, values in ((1, short), (10, long))
        for (kind, level), value in zip(cases, values, strict=True)
    ]
    summary = summarise_trial(rows)
    ranking = summary["ranking"][0]
    assert (ranking["pairs_alike"], ranking["pairs"]) == (2, 3)
    assert ranking["rho"] == pytest.approx(0.5)
    found = {row["claim"].split(":")[0]: row for row in summary["claims"]}
    assert found["ranks as a much longer fit does"]["holds"] is False
    assert found["a fit takes less than 90 s of one core's time"]["holds"] is True

"""Means count only what there is, and a question without an answer is told."""

from __future__ import annotations

import pytest

from configs.errors import UserError
from eval.clips.group_sections import headline_tiles
from eval.clips.groups import NO_CAMERAS
from eval.clips.summary import headline, summarise_clips, unmeasured
from eval.clips.tables import group_rows, reasons, shortened
from eval.scores.measured import KEY, NotAvailable, to_json

FAILED = to_json(NotAvailable("nothing matches"))


def line(source: str, **groups) -> dict:
    return {"source": source, "notes": [], **groups}


def camera(r_err: float | None) -> dict:
    value = FAILED if r_err is None else r_err
    return {"r_err_deg": value, "t_err": FAILED, "registration_rate": 0.5}


def test_means_are_over_the_clips_with_a_number():
    lines = [
        line("a", camera=camera(1.0)),
        line("b", camera=camera(None)),
        line("c", error="black"),
    ]
    summary = summarise_clips(lines)
    assert summary["clips"] == 2
    found = summary["camera"]
    assert found["r_err_deg"] == {"mean": 1.0, "clips": 1}
    assert found["registration_rate"] == {"mean": 0.5, "clips": 2}
    assert found["t_err"] == FAILED and found["left_out"] == {"nothing matches": 2}
    assert summary["unmeasured"] == {"b": {"camera error": "nothing matches"}}
    assert ("1.00 deg", "R_err, mean") in headline_tiles(summary)
    assert reasons(summary) == {"camera: T_err": "nothing matches"}
    assert group_rows(found, [{KEY: "none"}])[0] == ["R_err", "1.00 deg", "not available", "1"]


def test_clips_that_all_fail_are_told_with_each_reason_once():
    lines = [line(str(n), error="black") for n in range(7)] + [line("x", error="cut off")]
    with pytest.raises(UserError, match=r"^0, 1, 2, 3, 4 and 2 more: black; x: cut off$"):
        summarise_clips(lines)


def test_one_answer_to_a_question_is_enough_and_what_was_not_given_is_not_asked():
    pairs = {"percent": 80.0}
    assert unmeasured(line("a", camera=camera(None), tsed=pairs)) == {}
    missing = to_json(NO_CAMERAS)
    assert unmeasured(line("a", camera=missing, consistency=missing)) == {}
    lost = line("a", camera=camera(None), tsed=pairs, consistency=FAILED)
    assert unmeasured(lost) == {"3D consistency": "nothing matches"}
    assert headline(lost) == "a: TSED 80 %"


def test_one_metric_of_two_groups_may_lack_for_two_reasons():
    small = {name: {KEY: f"{name} is too small"} for name in ("one", "other")}
    summary = {"images": {"ms_ssim": small["one"]}, "consistency": {"ms_ssim": small["other"]}}
    assert reasons(summary) == {
        "images: MS-SSIM": "one is too small",
        "consistency: MS-SSIM": "other is too small",
    }
    summary["consistency"] = summary["images"]
    assert list(reasons(summary)) == ["images: MS-SSIM; consistency: MS-SSIM"]


def test_long_lists_of_remarks_are_counted_not_shown():
    said = list(shortened([str(n) for n in range(20)]))
    assert said[:2] == ["0", "1"] and said[-1] == "and 8 more, in clips.jsonl"
    assert list(shortened(["one"])) == ["one"]

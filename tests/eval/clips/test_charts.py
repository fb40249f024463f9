"""Scores over time: every clip of a few, the quartiles of many, and a gap where there is no value."""

from __future__ import annotations

from eval.clips.charts import MANY, group_charts
from eval.scores.measured import NotAvailable, to_json


def tsed_line(source: str, medians: list) -> dict:
    return {"source": source, "tsed": {"median_px": medians, "num_matches": [9] * len(medians)}}


def test_a_few_clips_have_a_line_each():
    lines = [tsed_line("a", [1.0, None, 3.0]), tsed_line("b", [2.0])]
    medians, matches = group_charts("tsed", lines)
    assert [(one.name, one.values) for one in medians.lines] == [
        ("a", [1.0, None, 3.0]),
        ("b", [2.0]),
    ]
    assert len({one.colour for one in matches.lines}) == 2


def test_many_clips_have_their_quartiles_over_those_with_a_value():
    lines = [tsed_line(str(n), [float(n), None] if n else [None]) for n in range(MANY + 4)]
    chart, _ = group_charts("tsed", lines)
    assert [one.values for one in chart.lines] == [[5.0, None], [3.0, None], [7.0, None]]
    assert [one.dashed for one in chart.lines] == [False, True, True]


def test_what_is_not_available_is_not_drawn():
    missing = to_json(NotAvailable("no cameras"))
    assert group_charts("camera", [{"source": "a", "camera": missing}]) == []
    assert group_charts("camera", [{"source": "a", "camera": {"rotation_deg": missing}}]) == []
    (chart,) = group_charts("camera", [{"source": "a", "camera": {"rotation_deg": [2.0]}}])
    assert chart.lines[0].values == [None, 2.0]  # the first frame has no error

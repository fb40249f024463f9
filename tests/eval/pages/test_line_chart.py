"""Charts are well-formed SVG whose lines lie where their values say."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from eval.pages.line_chart import Line, LineChart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1.5, 2, [-2, -1, 0, 1, 2]),
        (15.2, 29.9, [15, 20, 25, 30]),
        (0, 16, [0, 5, 10, 15, 20]),
    ],
)
def test_ticks_are_round_and_reach_around_the_values(low, high, expected) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_equal_values_have_a_scale_too() -> None:
    ticks = nice_ticks(60.0, 60.0)
    assert len(ticks) >= 2 and ticks[0] <= 60 <= ticks[-1] and ticks[-1] > ticks[0]


def test_lines_lie_where_their_values_say_and_gaps_stay_open() -> None:
    chart = LineChart(
        "A & B", "frame", "dB", [Line("rising", [0.0, 5.0, 10.0]), Line("gap", [10.0, None, 0.0])]
    )
    svg = ET.fromstring(chart.svg())
    rising, gap = (p.get("d") for p in svg.iter("path") if p.get("stroke-width"))
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", str(rising))]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1) and y0 - y1 == pytest.approx(y1 - y2)
    assert y0 > y1  # larger values are further up
    assert str(gap).count("M") == 2 and "L" not in str(gap)
    assert "A &amp; B" in chart.html() and "rising" in chart.html()


def test_a_chart_without_values_draws_nothing() -> None:
    assert LineChart("a", "x", "y", [Line("none", [None, None])]).svg() == ""

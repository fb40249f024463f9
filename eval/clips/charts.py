"""The clips' scores over time, as charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eval.pages.line_chart import Line, LineChart
from eval.scores.measured import KEY

NUM_COLOURS = 6
MANY = 6
"""Of more clips than this the median and the quartiles are shown, not every one."""
QUARTILES = {"median of the clips": 0.5, "a quarter is below": 0.25, "a quarter is above": 0.75}
OVER_TIME = {
    "images": (
        ("psnr", "PSNR over time", "frame", "dB"),
        ("ssim", "SSIM over time", "frame", ""),
    ),
    "camera": (
        ("rotation_deg", "Rotation error over time", "placed frame", "deg"),
        ("translation", "Position error over time", "placed frame", "spans"),
    ),
    "photometric": (
        ("rotation_deg", "Rotation error over time", "frame", "deg"),
        ("translation", "Position error over time", "frame", "spans"),
    ),
    "tsed": (
        ("median_px", "Median epipolar distance", "pair of frames", "px"),
        ("num_matches", "Matching features", "pair of frames", ""),
    ),
    "consistency": (
        ("psnr", "Predicted views, PSNR", "held-out view", "dB"),
        ("ssim", "Predicted views, SSIM", "held-out view", ""),
    ),
}
"""Of each group the metrics with a value a frame: name, title, x axis, unit."""

Values = list[float | int | None]


def group_charts(group: str, scored: Sequence[dict[str, Any]]) -> list[LineChart]:
    """The charts of one group over all clips that were scored; none of a metric that no clip has."""
    charts = []
    for metric, title, x_label, unit in OVER_TIME[group]:
        found = {line["source"]: values_over_time(group, line, metric) for line in scored}
        known = {source: values for source, values in found.items() if values}
        if known:
            charts.append(LineChart(title, x_label, unit, _lines(known)))
    return charts


def values_over_time(group: str, line: dict[str, Any], metric: str) -> Values:
    """A clip's values of one metric over time; empty where it has none."""
    row = line.get(group)
    if row is None or KEY in row:
        return []
    found: Any = row.get(metric)
    if group == "images":
        found = found.get("per_view", []) if isinstance(found, dict) else []
    elif group == "consistency":
        found = row["held_out"].get(metric)
    elif group in ("camera", "photometric") and isinstance(found, list):
        found = [None, *found]  # the first frame has no error by construction
    return found if isinstance(found, list) else []


def _lines(known: dict[str, Values]) -> list[Line]:
    if len(known) <= MANY:
        return [
            Line(source, values, place % NUM_COLOURS)
            for place, (source, values) in enumerate(known.items())
        ]
    longest = max(len(values) for values in known.values())
    columns = [
        [
            value
            for values in known.values()
            if place < len(values) and (value := values[place]) is not None
        ]
        for place in range(longest)
    ]
    return [
        Line(name, [_quantile(column, share) for column in columns], dashed=share != 0.5)
        for name, share in QUARTILES.items()
    ]


def _quantile(values: Sequence[float | int], share: float) -> float | None:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share)) if values else None

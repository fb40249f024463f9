"""Means over clips, from their lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from configs.errors import UserError
from eval.clips.measures import GROUPS, available
from eval.consistency import scores as consistency_scores
from eval.images import image_scores
from eval.scores.measured import KEY, NotAvailable, from_json, mean, num_available, to_json

MEANS: dict[str, tuple[str, ...]] = {
    "camera": (
        "r_err_deg",
        "r_err_rad",
        "r_err_sum_rad",
        "t_err",
        "t_err_sum",
        "registration_rate",
        "reprojection_error_px",
    ),
    "photometric": (
        "r_err_deg",
        "r_err_rad",
        "t_err",
        "r_err_deg_deviation",
        "t_err_deviation",
        "r_floor_deg",
        "t_floor",
        "explained",
        "epipolar_px",
    ),
    "tsed": ("percent", "typical_px", "moved_px"),
}
"""What is averaged of a group's line, clip by clip."""


def summarise_clips(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `summary.json` says of the clips: per group, means over the clips that have a number, and how many.

    Clips without a number count in `left_out`, by the reason; a group that no clip has is not available.
    Raises UserError where no clip could be scored.
    """
    scored = [line for line in lines if "error" not in line]
    if not scored:
        reasons = dict.fromkeys(f"{line['source']}: {line['error']}" for line in lines)
        raise UserError("; ".join(reasons))
    summary: dict[str, Any] = {"clips": len(scored)}
    for name in GROUPS:
        rows = [line[name] for line in scored if name in line]
        if not rows:
            continue
        if not any(available(row) for row in rows):
            summary[name] = rows[0]
        elif name == "images":
            summary[name] = image_scores.summarise(row for row in rows if available(row))
        elif name == "consistency":
            summary[name] = consistency_scores.summarise(rows)
        else:
            summary[name] = _means(rows, MEANS[name])
    if notes := [f"{line['source']}: {note}" for line in scored for note in line["notes"]]:
        summary["notes"] = notes
    return summary


def mean_of(group: dict[str, Any] | None, name: str) -> float | NotAvailable:
    """A mean from the summary of a group, or why there is none."""
    if group is None:
        return NotAvailable("not asked for")
    if KEY in group:
        return NotAvailable(group[KEY])
    value = from_json(group.get(name))
    if isinstance(value, dict):
        value = from_json(value["mean"])
    return NotAvailable("it has no value") if value is None else value


def clip_value(line: dict[str, Any], group: str, name: str) -> float | NotAvailable:
    """One number of a clip's line, or why there is none."""
    row = line.get(group)
    if row is None:
        return NotAvailable("not asked for")
    if KEY in row:
        return NotAvailable(row[KEY])
    value = row.get(name)
    if isinstance(value, dict):
        value = value.get("mean", from_json(value))
    return NotAvailable("it has no value") if value is None else value


def headline(line: dict[str, Any]) -> str:
    """A few words on a clip's scores."""
    found = []
    for group, name, form in (
        ("images", "psnr", "{:.1f} dB"),
        ("camera", "r_err_deg", "R {:.2f} deg"),
        ("tsed", "percent", "TSED {:.0f} %"),
        ("consistency", "psnr", "consistency {:.1f} dB"),
    ):
        value = clip_value(line, group, name)
        if not isinstance(value, NotAvailable):
            found.append(form.format(value))
    return f"{line['source']}: {', '.join(found) or 'nothing could be measured'}"


def _means(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The mean of each name over the clips that have it; `left_out` counts the others by the first reason."""
    scored = [from_json(row) for row in rows]
    summary: dict[str, Any] = {}
    reasons: dict[str, int] = {}
    for row in scored:
        values = [row] if isinstance(row, NotAvailable) else [row.get(name) for name in names]
        why = next((value.why for value in values if isinstance(value, NotAvailable)), None)
        if why is not None:
            reasons[why] = reasons.get(why, 0) + 1
    for name in names:
        values = [row if isinstance(row, NotAvailable) else row.get(name) for row in scored]
        known = [value for value in values if value is not None]
        if not known:
            continue
        found = mean(known)
        summary[name] = (
            to_json(found)
            if isinstance(found, NotAvailable)
            else {"mean": to_json(found), "clips": num_available(known)}
        )
    if reasons:
        summary["left_out"] = reasons
    return summary

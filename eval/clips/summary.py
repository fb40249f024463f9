"""Means over clips, from their lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from configs.errors import UserError
from eval.clips.groups import GROUPS, NO_CAMERAS, Group, available
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
QUESTIONS: dict[str, tuple[tuple[Group, str], ...]] = {
    "camera error": (("camera", "r_err_deg"), ("tsed", "percent"), ("photometric", "r_err_deg")),
    "3D consistency": (("consistency", "psnr"),),
}
"""What is asked of a clip with cameras, and the numbers that answer it; any one of them does."""

MOST_NAMED = 5
"""So many clips are named in one message."""


def summarise_clips(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `summary.json` says of the clips: the means of `summarise_groups`, and what could not be measured.

    `unmeasured` has, by clip, the questions that none of the groups asked for could answer, and why.
    Raises UserError where no clip could be scored.
    """
    scored = [line for line in lines if "error" not in line]
    if not scored:
        raise UserError("; ".join(_errors(lines)))
    summary: dict[str, Any] = {"clips": len(scored), **summarise_groups(scored)}
    if notes := [f"{line['source']}: {note}" for line in scored for note in line["notes"]]:
        summary["notes"] = notes
    found = {line["source"]: unmeasured(line) for line in scored}
    summary["unmeasured"] = {source: questions for source, questions in found.items() if questions}
    return summary


def summarise_groups(scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each group, means over the clips that have a number, and how many they are.

    Clips without a number count in `left_out`, by the reason; a group that no clip has is not available.
    """
    summary: dict[str, Any] = {}
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
    return summary


def unmeasured(line: dict[str, Any]) -> dict[str, str]:
    """The questions that were asked of a clip and that it gives no answer to, with the reason.

    A question for which an input is missing is not asked.
    """
    found = {}
    for question, answers in QUESTIONS.items():
        values = [
            clip_value(line, group, name)
            for group, name in answers
            if group in line and line[group] != to_json(NO_CAMERAS)
        ]
        if values and isinstance(answer := mean(values), NotAvailable):
            found[question] = answer.why
    return found


def mean_of(group: dict[str, Any] | None, name: str) -> float | NotAvailable:
    """A number of a group, of its mean where it has more, or why there is none."""
    if group is None:
        return NotAvailable("not asked for")
    if KEY in group:
        return NotAvailable(group[KEY])
    value = from_json(group.get(name))
    if isinstance(value, dict):
        value = value["mean"]
    return NotAvailable("it has no value") if value is None else value


def clip_value(line: dict[str, Any], group: str, name: str) -> float | NotAvailable:
    """One number of a clip's line, or why there is none."""
    return mean_of(line.get(group), name)


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


def _errors(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each reason once, after the clips that it is of; of many clips the first few."""
    names: dict[str, list[str]] = {}
    for line in lines:
        names.setdefault(line["error"], []).append(line["source"])
    for why, sources in names.items():
        more = len(sources) - MOST_NAMED
        named = ", ".join(sources[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield f"{named}: {why}"


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

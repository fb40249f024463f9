"""The Markdown report of a camera trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.cameras.perturbed import KINDS, STRENGTHS
from eval.trials.page import claims_section, left_out_section, making, table

INTRODUCTION = """\
# Is the camera error right?

The cameras that took a clip's frames are known. The commanded cameras are made wrong by known amounts, and the camera
errors have to find those amounts again. Cameras are found from the frames alone, intrinsics given; the commanded poses
are only what they are compared with.

    ./launch.sh python -m eval.camera_validation configs/eval/camera_validation.yaml

writes this page and, beside it, its numbers as JSON; an interrupted run goes on where it stopped.
"""
TRUTH = """\
Procedural frames are rendered from cameras that are known exactly. Nobody knows those of the captures: their
`transforms.json` comes from structure from motion too, on larger photographs, all of them together, with the lens
estimated (by the authors for `mary_rose_tankard`, by pycolmap for the others; `lund_street` fits its own cameras only
to half a pixel). What is found for them is the agreement of two reconstructions by one kind of method, from other
frames, features and mappers. A known rotation error is known only as well as the cameras that it was added to: where
the median distance of a capture's matches under its own cameras (below), as an angle, is more than 5% of it, the case
stands in the tables, but no claim is judged by it.
"""
CLIPS = """\
Against the right cameras every number is the measurement's own error. R_err in degrees, T_err in spans (a path's
largest distance from its first camera), both means over the frames after the first. Distance: the median epipolar
distance [px] of neighbouring frames' matches under the right cameras and under those found. Where a capture's matches
lie nearer under those found, its own cameras are no better a truth than they are.
"""
RECOVERED = "The known error, the one found, and how far that is off. An asterisk: by more than 5%."
TSED = "Percent of neighbouring frames that agree with the commanded cameras; below, the median distance [px]."
CONVENTIONS = """\
The right cameras, given in other conventions: whether the sentence that comes names it. Where the camera moves without
turning, several readings fit the frames, and no alarm is raised.
"""


def trial_markdown(summary: dict[str, Any]) -> str:
    """The page, from the summary of `eval.cameras.trial_summary`, its config and its environment."""
    steps = "; ".join(
        f"{level}: {degrees:g} deg, {share:g} spans"
        for level, (degrees, share) in enumerate(STRENGTHS, start=1)
    )
    kinds = "; ".join(f"*{kind}*, {what}" for kind, what in KINDS.items())
    parts = [
        INTRODUCTION,
        f"Levels ({steps}) are means over the cameras after the first, which stays. {kinds[0].upper()}{kinds[1:]}.\n",
        making(summary),
        claims_section(summary["claims"]),
        f"## What the truth is\n\n{TRUTH}",
        _clips(summary["clips"]),
        _recovered("Found again by structure from motion", summary["features"]),
        _recovered("Found again by alignment of pixels", summary["pixels"]),
        _pixels(summary["clips"]),
        _tsed(summary["tsed"]),
        _conventions(summary["clips"]),
        left_out_section(summary),
    ]
    return "\n".join(part for part in parts if part)


def _clips(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        "clip",
        "views",
        "placed",
        "R_err",
        "T_err",
        "points",
        "reprojection",
        "TSED",
        "distance",
        "of found",
    )
    cells = [
        (
            row["source"],
            f"{row['views']} of {row['size'][0]}x{row['size'][1]}",
            f"{row['camera']['registration_rate']:.0%}",
            _number(row["camera"]["r_err_deg"], 2),
            _number(row["camera"]["t_err"], 4),
            str(row["camera"]["points"]),
            _number(row["camera"]["reprojection_error_px"], 2),
            _number(row["tsed"]["percent"], 0),
            _number(row["tsed"]["typical_px"], 3),
            _number(row["found_px"], 3),
        )
        for row in rows
    ]
    return f"## The clips and their right cameras\n\n{CLIPS}\n{table(header, cells)}"


def _recovered(title: str, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    header = ("clip", "case", "R_err", "found", "off", "T_err", "found", "off")
    cells = [
        (
            row["source"],
            f"{row['kind']} {row['level']}",
            _number(row["known_r_err_deg"], 2),
            _number(row["r_err_deg"], 2),
            _off(row["r_err_deg_off"]),
            _number(row["known_t_err"], 4),
            _number(row["t_err"], 4),
            _off(row["t_err_off"]),
        )
        for row in rows
    ]
    return f"## {title}\n\n{RECOVERED}\n\n{table(header, cells)}"


def _pixels(rows: Sequence[dict[str, Any]]) -> str:
    """What alignment of pixels gives for right cameras, and the floor that it names itself."""
    header = ("clip", "R_err", "its floor", "T_err", "its floor", "explained", "started from")
    cells = [
        (
            row["source"],
            *(
                _number(row["photometric"][name], digits)
                for name, digits in (
                    ("r_err_deg", 2),
                    ("r_floor_deg", 2),
                    ("t_err", 4),
                    ("t_floor", 4),
                    ("explained", 2),
                )
            ),
            row["photometric"]["start"],
        )
        for row in rows
        if "photometric" in row
    ]
    return f"## Right cameras by alignment of pixels\n\n{table(header, cells)}" if cells else ""


def _tsed(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    levels = [str(level) for level in range(1 + len(STRENGTHS))]
    parts = [
        table(
            ("clip", "perturbation", *levels),
            [
                (row["source"], row["kind"], *(_number(v, digits) for v in row[name]))
                for row in rows
            ],
        )
        for name, digits in (("percent", 0), ("typical_px", 2))
    ]
    return f"## TSED\n\n{TSED}\n\n" + "\n".join(parts)


def _conventions(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0]["conventions"])
    cells = [
        (row["source"], *("yes" if row["conventions"][name] else "no" for name in names))
        for row in rows
    ]
    return f"## Conventions\n\n{CONVENTIONS}\n{table(('clip', *names), cells)}"


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _off(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}" + ("*" if abs(share) > 0.05 else "")

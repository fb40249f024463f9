"""The Markdown report of a consistency trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.trials.page import claims_section, left_out_section, making, table

INTRODUCTION = """\
# Is the 3D consistency score right?

Clips are changed in known amounts and scored. The score is the PSNR [dB] of `eval/consistency/measure.py`: a scene is
fitted to part of a clip's views and predicts the others; four seeds hold out each view once, and the input view has a
quarter of the weight. No view is compared with any truth. Levels 1 to 5 double in strength from one to the next;
`eval/consistency/perturbations.py` has the strengths.

    ./launch.sh python -m eval.consistency_validation configs/eval/consistency_validation.yaml

writes this page and, beside it, its numbers as JSON; an interrupted run goes on where it stopped.
"""
CLIPS = """\
Views as they are. Gain: the score above that of the same views with shuffled poses, which a smooth scene or a
camera that hardly moves cannot inflate. Copy: what the nearest fitted view scores as it is. Travel: in depths of the
scene. Scores of different clips do not compare, the gain does roughly: a generated clip is to be placed between its
own bounds. A clip of *another scene altogether* is scored exactly as if that scene were the truth, since the
truth is never looked at.
"""
LADDERS = """\
The score [dB] from the clip as it is (0) to level 5, and the Spearman correlation of its fall; where the input view is
what was changed, the part of the score that is its own, too. Levels of different ways count different things (lengths,
areas, tones), and a decibel is worth more error where there is more of it: so what is compared over all clips and ways
together is the squared error that the predictions gained with the squared change that was made to the views.
"""
CONSISTENT = """\
Views that changed together go on showing one scene. Recolouring changes contrast, and with it every PSNR: there the
gain on shuffled poses is what should stay.
"""
EASY = """\
Blur and stillness make views easier to predict: the score alone may rise, and says so beside it. Sharpness and
motion are shares of the unchanged clip's.
"""
RANKING = (
    "The same cases by the default fit and by one many times as long [dB], without the input view."
)


def trial_markdown(summary: dict[str, Any]) -> str:
    """The page, from the summary of `eval.consistency.trial_summary`, its config and its environment."""
    parts = [
        INTRODUCTION,
        making(summary),
        claims_section(summary["claims"]),
        _clips(summary["clips"]),
        _ladders(summary["ladders"]),
        _consistent(summary["consistent"]),
        _easy(summary["easy"]),
        *[_ranking(row) for row in summary["ranking"]],
        left_out_section(summary),
    ]
    return "\n".join(part for part in parts if part)


def _clips(rows: Sequence[dict[str, Any]]) -> str:
    header = ("clip", "views", "score", "held out", "input", "fitted", "gain", "copy", "travel")
    cells = [
        (
            row["source"],
            f"{row['num_views']} of {row['size'][0]}x{row['size'][1]}",
            *(_db(row[name]) for name in ("psnr", "held_out_psnr", "input_psnr", "fitted_psnr")),
            _db(row["gain_db"]),
            _db(row["copy_psnr"]),
            f"{row['travel']:.2f}",
        )
        for row in rows
    ]
    return f"## The clips\n\n{CLIPS}\n{table(header, cells)}"


def _ladders(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    most = max(len(row["psnr"]) for row in rows)
    header = ("clip", "perturbation", *(str(level) for level in range(most)), "rho")
    cells = []
    for row in rows:
        shown = [(row["kind"], row["psnr"], row["rho"])]
        if row["family"] == "input" and "input_rho" in row:
            shown.append((f"{row['kind']}: its part", row["input_psnr"], row["input_rho"]))
        for name, values, rho in shown:
            left = [""] * (most - len(values))
            cells.append((row["source"], name, *map(_db, values), *left, f"{rho:.2f}"))
    return f"## Falling\n\n{LADDERS}\n{table(header, cells)}"


def _consistent(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    header = ("clip", "change", "score", "change of score", "change of gain")
    cells = [
        (
            row["source"],
            f"{row['kind']} {row['strength']:g}",
            _db(row["psnr"]),
            _signed(row["psnr_change"]),
            _signed(row["gain_change"]),
        )
        for row in rows
    ]
    return f"## Staying\n\n{CONSISTENT}\n{table(header, cells)}"


def _easy(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    header = (
        "clip",
        "change",
        "score",
        "change",
        "gain changes",
        "copy",
        "sharpness",
        "motion",
        "said",
    )
    cells = [
        (
            row["source"],
            f"{row['kind']} {row['strength']:g}",
            _db(row["psnr"]),
            _signed(row["psnr_change"]),
            _signed(row["gain_change"]),
            _db(row["copy_psnr"]),
            f"{row['sharpness']:.0%}",
            f"{row['motion']:.0%}",
            "yes" if row["remarks"] else "no",
        )
        for row in rows
    ]
    return f"## What the score alone does not see\n\n{EASY}\n{table(header, cells)}"


def _ranking(row: dict[str, Any]) -> str:
    header = ("case", "default", f"{row['factor']} times the passes")
    cells = [
        (f"{one['kind']} {one['level']}".removesuffix(" 0"), _db(one["short"]), _db(one["long"]))
        for one in row["cases"]
    ]
    size = f"{row['num_views']} views of {row['size'][0]}x{row['size'][1]}"
    heading = f"## Against a longer fit: {row['source']}, {size}"
    return f"{heading}\n\n{RANKING}\n\n{table(header, cells)}"


def _db(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"

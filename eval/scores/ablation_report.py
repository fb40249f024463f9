"""An ablation's scores as one table: mean and spread over seeds, beside what the paper found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

NAMES = {
    "no_camera": "no camera (base trained on)",
    "lora": "LoRA only",
    "control": "ControlNet only",
    "both": "both",
}
MEASURES = {
    "motion_share": ("motion share", 2, True),
    "two_way_choice": ("two-way choice", 2, True),
    "matched_minus_crossed_db": ("matched − crossed, dB", 2, True),
    "psnr": ("PSNR, dB", 2, True),
    "ssim": ("SSIM", 3, True),
    "lpips": ("LPIPS", 3, False),
}
"""Heading, decimals, and whether more is better. The first three are of camera agreement."""
CAMERA_MEASURES = ("motion_share", "two_way_choice", "matched_minus_crossed_db")
PAPER = {
    "lora": {"fid": 19.02, "rotation_error": 0.102, "translation_error": 0.157},
    "control": {"fid": 18.75, "rotation_error": 0.058, "translation_error": 0.104},
    "both": {"fid": 17.22, "rotation_error": 0.052, "translation_error": 0.095},
}
"""Wonderland's ablation: RealEstate10K, 100 clips, 5 billion parameters."""
PAPER_ORDER = ("both", "control", "lora")
"""Best first, by each of the paper's three measures."""


def summarise_ablation(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per variant the mean and standard deviation over seeds of each measure, and how variants are ordered.

    The deviation is None with one seed, a mean where the measure is not available. An order is `as_paper` where
    the paper's three variants come in its order, and `clear` where each step of it is larger than the two
    deviations together (None with one seed).
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        grouped.setdefault(score["variant"], []).append(score)
    variants = {
        name: {
            "seeds": [score["seed"] for score in rows],
            "trained_parameters": rows[0]["trained_parameters"],
            "measures": {
                key: _spread([row["measures"].get(key) for row in rows]) for key in MEASURES
            },
        }
        for name, rows in grouped.items()
    }
    return {
        "variants": variants,
        "orders": {key: _order(variants, key) for key in MEASURES},
        "paper": {"measures": PAPER, "order": list(PAPER_ORDER)},
    }


def ablation_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: our measures, then the paper's."""
    header = ["", *(heading for heading, _, _ in MEASURES.values()), "trained"]
    header += ["paper: FID", "R error", "T error"]
    rows = []
    for name, found in summary["variants"].items():
        cells = [_cell(found["measures"][key], MEASURES[key][1]) for key in MEASURES]
        paper = PAPER.get(name)
        theirs = ["–"] * 3 if paper is None else [f"{value:g}" for value in paper.values()]
        millions = f"{found['trained_parameters'] / 1e6:.2f} M"
        rows.append([NAMES.get(name, name), *cells, millions, *theirs])
    return header, rows


def order_sentences(summary: dict[str, Any]) -> list[str]:
    """What each measure of camera agreement says of the paper's order, a sentence each."""
    paper = " > ".join(NAMES[name] for name in PAPER_ORDER)
    sentences = [f"The paper's order, by each of its measures: {paper}."]
    for key in CAMERA_MEASURES:
        order = summary["orders"][key]
        if order is None:
            continue
        ours = " > ".join(NAMES.get(name, name) for name in order["order"])
        verdict = "not measured" if order["as_paper"] is None else ""
        if order["as_paper"] is not None:
            verdict = "as in the paper" if order["as_paper"] else "not as in the paper"
            if order["clear"] is not None:
                verdict += "" if order["clear"] else ", and within the spread over seeds"
        sentences.append(f"By {MEASURES[key][0].split(',')[0]}: {ours} ({verdict}).")
    return sentences


def ablation_markdown(summary: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    header, rows = ablation_table(summary)
    lines = [
        f"# {summary['name']}",
        "",
        f"{summary['steps']} steps each from one base, {summary['scenes']} held-out scenes with two paths;"
        " mean ± standard deviation over seeds.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {sentence}" for sentence in order_sentences(summary)),
        *(f"- {note}" for note in summary["notes"]),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "deviation": stdev(known) if len(known) > 1 else None,
    }


def _order(variants: dict[str, Any], key: str) -> dict[str, Any] | None:
    found = {name: variant["measures"][key] for name, variant in variants.items()}
    if any(value["mean"] is None for value in found.values()):
        return None
    better = 1 if MEASURES[key][2] else -1
    order = sorted(found, key=lambda name: -better * found[name]["mean"])
    theirs = [name for name in order if name in PAPER_ORDER]
    complete = len(theirs) == len(PAPER_ORDER)
    steps = [(found[a], found[b]) for a, b in pairwise(theirs)]
    known = all(x["deviation"] is not None for step in steps for x in step)
    return {
        "order": order,
        "as_paper": tuple(theirs) == PAPER_ORDER if complete else None,
        "clear": all(abs(a["mean"] - b["mean"]) > a["deviation"] + b["deviation"] for a, b in steps)
        if complete and known
        else None,
    }


def _cell(value: dict[str, float | None], digits: int) -> str:
    if value["mean"] is None:
        return "not available"
    spread = "" if value["deviation"] is None else f" ± {value['deviation']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"

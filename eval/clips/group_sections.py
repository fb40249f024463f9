"""A section of a page for each group of measures: what it means, the means, charts over time, remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.clips.charts import group_charts
from eval.clips.groups import GROUPS, available
from eval.clips.labels import NOT_AVAILABLE, TEXTS, TITLES, number
from eval.clips.pictures import PATH, SCENE
from eval.clips.summary import mean_of
from eval.clips.tables import Groups, group_rows, reasons, set_rows, shortened
from eval.pages.html_report import Report
from eval.scores.measured import KEY, NotAvailable
from eval.scores.score_run import picture_file

HEADLINES = (
    ("images", "psnr", "PSNR against the reference"),
    ("images", "lpips_alex", "LPIPS (AlexNet)"),
    ("camera", "r_err_deg", "R_err, mean"),
    ("camera", "t_err", "T_err, mean, in spans"),
    ("photometric", "r_err_deg", "R_err from pixels"),
    ("tsed", "percent", "TSED"),
    ("consistency", "psnr", "3D consistency, PSNR"),
    ("consistency", "place", "place between the bounds"),
)
CONSISTENCY_BARS = {
    "these frames": "psnr",
    "real frames": "upper_psnr",
    "shuffled poses": "lower_psnr",
    "nearest, copied": "copy_psnr",
}


def headline_tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The main means that there are, with what they are."""
    values = [(number(mean_of(summary.get(g), m), m), text) for g, m, text in HEADLINES]
    return [(n.removesuffix(" spans"), text) for n, text in values if n != NOT_AVAILABLE]


def add_groups(
    report: Report,
    summary: dict[str, Any],
    scored: Sequence[dict[str, Any]],
    beside: Mapping[str, Groups] | None = None,
) -> None:
    """A section for each group that the summary has. beside: further columns of means by their heading."""
    for name in GROUPS:
        if name in summary:
            others = {
                heading: groups[name]
                for heading, groups in (beside or {}).items()
                if name in groups
            }
            _add_group(report, name, summary[name], scored, others)


def add_sets(report: Report, summary: dict[str, Any]) -> None:
    """The measures over all clips, where there are any."""
    if "sets" in summary:
        report.section(
            "All clips as sets",
            "Distances between the frames (FID, KID) and videos (FVD) of all clips and of their references.",
        )
        report.table(["", "value", "samples", "note"], set_rows(summary["sets"]))


def add_reasons(report: Report, summary: dict[str, Any]) -> None:
    """What is not available, and how to have it."""
    if missing := reasons(summary):
        report.section("Not available", "What could not be measured, and how to have it.")
        report.explanations(missing)


def add_result_pictures(
    report: Report, pictures: Path, item: int, source: str, infix: str = ""
) -> None:
    """The pictures of `write_result_pictures`, those that there are."""
    texts = {
        SCENE: "views that were held out, and what the scene fitted to the others shows there",
        PATH: "where the camera was, each path in its span",
    }
    for suffix, text in texts.items():
        if (path := picture_file(pictures, item, infix + suffix)).is_file():
            report.image(path, f"{source}: {text}", enlarge=False)


def _add_group(
    report: Report,
    name: str,
    group: dict[str, Any],
    scored: Sequence[dict[str, Any]],
    beside: Groups,
) -> None:
    report.section(TITLES[name], TEXTS[name])
    if KEY in group:
        report.note(f"{NOT_AVAILABLE}: {group[KEY]}")
        return
    if name == "consistency":
        bars = {text: mean_of(group, metric) for text, metric in CONSISTENCY_BARS.items()}
        known = {k: None if isinstance(v, NotAvailable) else v for k, v in bars.items()}
        report.bars({"PSNR of predicted views": known}, next(iter(bars)), " dB")
    several = len(scored) > 1
    rows = group_rows(group, list(beside.values()))
    columns = ["", "mean" if several else "value", *beside, *(["clips"] if several else [])]
    report.table(columns, [row[: len(columns)] for row in rows])
    left_out = [
        f"{count} of {len(scored)} clips: {NOT_AVAILABLE}: {why}"
        for why, count in group.get("left_out", {}).items()
    ]
    for sentence in shortened(left_out):
        report.note(sentence)
    if charts := group_charts(name, scored):
        report.charts(charts)
    if name == "consistency":
        said = [
            f"{line['source']}: {remark}"
            for line in scored
            if available(line.get(name))
            for remark in line[name]["remarks"]
        ]
        for sentence in shortened(said):
            report.note(sentence)

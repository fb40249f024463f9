"""Scores for people: the table on the terminal, and the page with bars, best and worst clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.pages.clip_pictures import METHOD_NAMES
from eval.pages.html_report import Report
from eval.scores.report_parts import add_failed, add_making
from eval.scores.scoring import BASELINES, EXTRAS, GROUPS, OURS, new_view_psnr

HEADINGS = {"seen": "views given", "unseen": "new views, near", "far": "new views, far"}
BAR_FLOOR_DB = 10.0
EXPLANATION = (
    "Views given are the frames that went in. New views lie a little beside and past the camera's path;"
    " far ones are those new views that the median-depth warp draws worse than {far:g} dB. The baselines:"
    " copy shows the nearest given frame; median depth reprojects that frame as if the whole scene stood at"
    " its median depth; polished is LaLRM's scene fitted further to the given frames; 3DGS fit optimises"
    " Gaussians for this scene alone, from nothing, for many times the seconds;"
    " autoencoder is the given frames after encoding and decoding, the ceiling for anything that sees only"
    " the latents."
)


def methods_with_values(summary: dict[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """LaLRM's scores, then the baselines' that have any."""
    ours = {metric: summary[metric] for metric in ("psnr", "ssim")}
    methods = {OURS: ours, **{name: summary["baselines"][name] for name in BASELINES}}
    return {
        name: scores
        for name, scores in methods.items()
        if any(value is not None for value in scores["psnr"].values())
    }


def score_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a method, then "PSNR / SSIM" in each group."""
    groups = [group for group in GROUPS if summary["views"][group]]
    header = ["PSNR (dB) / SSIM"] + [
        f"{HEADINGS[group]} ({summary['views'][group]})" for group in groups
    ]
    rows = []
    for name, scores in methods_with_values(summary).items():
        cells = [_pair(scores["psnr"][group], scores["ssim"][group]) for group in groups]
        rows.append([METHOD_NAMES[name], *cells])
    return header, rows


def extra_rows(summary: dict[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a further metric: a method, then its mean in each group."""
    header, _ = score_rows(summary)
    groups = [group for group in GROUPS if summary["views"][group]]
    values = {OURS: summary[metric]}
    values |= {name: summary["baselines"][name][metric] for name in BASELINES}
    rows = [
        [
            METHOD_NAMES[name],
            *("–" if row[group] is None else f"{row[group]:.3f}" for group in groups),
        ]
        for name, row in values.items()
        if any(row[group] is not None for group in groups)
    ]
    name = "LPIPS (AlexNet)" if metric == "lpips" else metric.replace("_", "-", 1).upper()
    return [name, *header[1:]], rows


def print_scores(summary: dict[str, Any]) -> None:
    """The table of scores on the terminal, LaLRM's row in bold."""
    from rich.console import Console
    from rich.table import Table

    header, rows = score_rows(summary)
    table = Table(header[0])
    for heading in header[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == METHOD_NAMES[OURS] else None)
    console = Console()
    console.print(table)
    if summary["fit_time_ratio"] is not None:
        console.print(f"the 3DGS fit took {summary['fit_time_ratio']:.0f} times LaLRM's seconds")


def add_scores(report: Report, summary: dict[str, Any], far_below_db: float) -> None:
    """The section with bars and the table of scores."""
    report.section("Beside the baselines", EXPLANATION.format(far=far_below_db))
    methods = methods_with_values(summary)
    report.bars(
        {
            f"{HEADINGS[group]}, PSNR": {
                METHOD_NAMES[name]: scores["psnr"][group] for name, scores in methods.items()
            }
            for group in GROUPS
            if summary["views"][group]
        },
        METHOD_NAMES[OURS],
        " dB",
        BAR_FLOOR_DB,
    )
    note = f"Bars start at {BAR_FLOOR_DB:g} dB."
    if summary["fit_time_ratio"] is not None:
        note += f" The 3DGS fit took {summary['fit_time_ratio']:.0f} times LaLRM's seconds."
    report.note(note)
    report.table(*score_rows(summary), ours=METHOD_NAMES[OURS])
    for metric in sorted(name for name in summary if name.startswith(EXTRAS)):
        report.table(*extra_rows(summary, metric), ours=METHOD_NAMES[OURS])
    for hint in summary["not_available"].values():
        report.note(f"{hint}.")


def write_score_report(
    path: Path, summary: dict[str, Any], lines: list[dict[str, Any]], pictures: dict[int, Path]
) -> None:
    """The page of a benchmark. pictures: a picture file of each scored clip, by number."""
    config = summary["config"]
    report = Report(
        "Reconstruction scores",
        f"{summary['clips']} clips from {config['data']}, LaLRM from {config['lalrm']}.",
    )
    depth = summary["depth_error"]["unseen"]
    report.tiles(
        [
            (_number(summary["psnr"]["unseen"], " dB"), "new views, PSNR"),
            (_number(summary["psnr"]["far"], " dB"), "new views far off, PSNR"),
            (_number(summary["psnr"]["seen"], " dB"), "views given, PSNR"),
            ("–" if depth is None else f"{100 * depth:.1f} %", "median depth error, new views"),
            (_share(summary["floaters"]), "of the mass floats in free space"),
            (f"{summary['num_gaussians']:,}", "Gaussians a scene"),
        ]
    )
    add_scores(report, summary, config["baselines"]["far_below_db"])
    scored = [line for line in lines if "error" not in line]
    ranked = sorted(scored, key=lambda line: new_view_psnr(line) or 0.0, reverse=True)
    num_shown = min(3, len(ranked) // 2) or len(ranked)
    for heading, chosen in (
        ("Best clips", ranked[:num_shown]),
        ("Worst clips", ranked[num_shown:][-3:][::-1]),
    ):
        if chosen:
            report.section(heading, "By LaLRM's PSNR over the new views.")
        for line in chosen:
            caption = f"{line['source']}: {_number(new_view_psnr(line), ' dB')} on new views"
            report.image(pictures[line["clip"]], caption)
    report.section("Every clip")
    report.table(
        ["clip", "views given", "new views", "median depth", "Gaussians"],
        [_clip_row(line) for line in ranked],
    )
    add_failed(report, summary)
    add_making(report, summary)
    report.write(path)


def _clip_row(line: dict[str, Any]) -> list[str]:
    seen = [line["psnr"][OURS][view] for view in line["groups"]["seen"]]
    return [
        line["source"],
        _number(sum(seen) / len(seen)),
        _number(new_view_psnr(line) if line["groups"]["unseen"] else None),
        _number(new_view_psnr(line, "median_depth")),
        f"{line['num_gaussians']:,}",
    ]


def _pair(psnr: float | None, ssim: float | None) -> str:
    return "–" if psnr is None or ssim is None else f"{psnr:.2f} / {ssim:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.2f}{unit}"

"""The page of scored clips: tables, plots, videos and pictures, best and worst clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.clips.group_sections import (
    add_groups,
    add_reasons,
    add_result_pictures,
    add_sets,
    headline_tiles,
)
from eval.clips.labels import number
from eval.clips.summary import clip_value
from eval.clips.tables import shortened
from eval.pages.html_report import Report
from eval.scores.measured import NotAvailable
from eval.scores.report_parts import add_failed, add_making
from eval.scores.score_run import picture_file

NUM_SHOWN = 3
COLUMNS = (
    ("images", "psnr", "PSNR"),
    ("images", "ssim", "SSIM"),
    ("images", "lpips_alex", "LPIPS"),
    ("camera", "r_err_deg", "R_err"),
    ("camera", "t_err", "T_err"),
    ("camera", "registration_rate", "placed"),
    ("tsed", "percent", "TSED"),
    ("photometric", "r_err_deg", "R_err, pixels"),
    ("consistency", "psnr", "3D cons."),
    ("consistency", "gain_db", "gain"),
)
RANKED_BY = (
    ("consistency", "psnr", True, "3D consistency"),
    ("images", "psnr", True, "PSNR against the reference"),
    ("camera", "r_err_deg", False, "R_err"),
    ("tsed", "percent", True, "TSED"),
)


def write_clip_report(
    folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
) -> None:
    """The page of scored clips; their pictures are in `folder`/pictures."""
    config = summary["config"]
    scored = [line for line in lines if "error" not in line]
    clips = "1 clip" if len(scored) == 1 else f"{len(scored)} clips"
    beside = f", against {config['reference']}" if config["reference"] else ""
    report = Report(
        "Scores", f"{clips} from {config['data']}{beside}; protocol: {_protocol(config)}."
    )
    report.tiles(headline_tiles(summary))
    for note in shortened(summary.get("notes", [])):
        report.note(note)
    if len(scored) == 1:
        _add_clip(report, folder / "pictures", scored[0])
    add_groups(report, summary, scored)
    add_sets(report, summary)
    add_reasons(report, summary)
    if len(scored) > 1:
        _add_examples(report, folder / "pictures", scored)
        _add_table(report, scored)
    if unmeasured := summary["unmeasured"]:
        report.section("Clips without a measure that was asked for")
        report.explanations(
            {
                f"{name}, {what}": why
                for name, questions in unmeasured.items()
                for what, why in questions.items()
            }
        )
    add_failed(report, summary)
    add_making(report, summary)
    report.write(folder / "report.html")


def _add_examples(report: Report, pictures: Path, scored: Sequence[dict[str, Any]]) -> None:
    ranked, by = _ranked(scored)
    count = min(NUM_SHOWN, max(1, len(ranked) // 2))
    shown = {"Best clips": ranked[:count], "Worst clips": ranked[count:][-NUM_SHOWN:][::-1]}
    for heading, chosen in shown.items():
        if not chosen:
            continue
        report.section(heading, f"By {by}." if by else "")
        for line in chosen:
            _add_clip(report, pictures, line)


def _add_clip(report: Report, pictures: Path, line: dict[str, Any]) -> None:
    item, source = line["clip"], line["source"]
    values = [(text, clip_value(line, group, metric), metric) for group, metric, text in COLUMNS]
    told = [f"{t} {number(v, m)}" for t, v, m in values if not isinstance(v, NotAvailable)]
    height, width = line["size"]
    shown = "frames, reference and fitted scene, as far as there are any"
    caption = f"{source}, {line['frames']} frames of {height}x{width} ({shown}): {', '.join(told)}"
    video = picture_file(pictures, item, ".mp4")
    if video.is_file():
        report.video(video, caption)
    if (over_time := picture_file(pictures, item)).is_file():
        report.image(over_time, f"{source}, over time")
    add_result_pictures(report, pictures, item, source)


def _ranked(scored: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The clips from best to worst by the first measure that most of them have, and its name."""
    for group, metric, up, name in RANKED_BY:
        values = {line["clip"]: clip_value(line, group, metric) for line in scored}
        known = {n: v for n, v in values.items() if not isinstance(v, NotAvailable)}
        if 2 * len(known) > len(scored):
            worst = float("-inf")
            keys = {n: (v if up else -v) for n, v in known.items()}
            ranked = sorted(scored, key=lambda line: keys.get(line["clip"], worst), reverse=True)
            return ranked, name
    return list(scored), ""


def _add_table(report: Report, scored: Sequence[dict[str, Any]]) -> None:
    columns = [
        column
        for column in COLUMNS
        if any(not isinstance(clip_value(line, *column[:2]), NotAvailable) for line in scored)
    ]
    report.section("Every clip", "A dash: not available; the clip's line in clips.jsonl says why.")
    rows = []
    for line in _ranked(scored)[0]:
        cells = [(clip_value(line, group, metric), metric) for group, metric, _ in columns]
        found = ["–" if isinstance(v, NotAvailable) else number(v, m) for v, m in cells]
        rows.append([line["source"], *found])
    report.table(["clip", *(text for _, _, text in columns)], rows)


def _protocol(config: dict[str, Any]) -> str:
    protocol = config["protocol"]
    return protocol if isinstance(protocol, str) else json.dumps(protocol)

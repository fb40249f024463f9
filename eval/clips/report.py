"""The clips' scores for people: the table on the terminal, and the page with tables, plots, videos and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.clips.measures import GROUPS, available
from eval.clips.pictures import PATH, SCENE
from eval.clips.summary import clip_value, mean_of
from eval.pages.html_report import Report
from eval.pages.line_chart import Line, LineChart
from eval.scores.measured import KEY, NotAvailable
from eval.scores.score_run import picture_file

NOT_AVAILABLE = "not available"
NUM_SHOWN = 3
MANY = 6
"""With more clips than this, charts show each clip's line pale and without its name."""
TITLES = {
    "images": "Images, against the reference",
    "camera": "Camera error, by structure from motion",
    "tsed": "TSED, commanded cameras against matched features",
    "photometric": "Camera error from pixels alone",
    "consistency": "3D consistency",
}
TEXTS = {
    "images": (
        "Frame by frame against the real frames of the same views, by torchmetrics and lpips. Higher is better but"
        " for LPIPS."
    ),
    "camera": (
        "Cameras found from the frames alone, against the commanded ones: relative to the first frame, lengths in the"
        " paths' own spans. R_err is an angle, T_err a distance, both means over frames; lower is better. Frames that"
        " could not be placed are not in the means: read the registration rate with them. Neither tells how far the"
        " camera went."
    ),
    "tsed": (
        "Neighbouring frames whose feature matches lie, in the median, within the threshold of their epipolar lines."
        " A still picture satisfies any move without turning: see how far features moved."
    ),
    "photometric": (
        "For frames too small or too smooth for features: cameras by direct alignment of the frames, against the"
        " commanded ones, in the same measures. The deviation is the measurement's own; the floor is what a video that"
        " follows its cameras perfectly would score because of it."
    ),
    "consistency": (
        "A scene of Gaussians is fitted to a part of the frames, and predicts those that were held out and the input"
        " view. The upper bound is the same on real frames, the lower one the same frames with shuffled poses; place is"
        " where the score stands between them, 0 to 1. A copy of the nearest frame says how easy the views are."
    ),
}
NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG)",
    "r_err_deg": "R_err",
    "r_err_rad": "R_err",
    "r_err_sum_rad": "R_err, sum over frames",
    "t_err": "T_err",
    "t_err_sum": "T_err, sum over frames",
    "registration_rate": "registration rate",
    "reprojection_error_px": "reprojection error",
    "r_err_deg_deviation": "± of R_err",
    "t_err_deviation": "± of T_err",
    "r_floor_deg": "floor of R_err",
    "t_floor": "floor of T_err",
    "explained": "explained by alignment",
    "epipolar_px": "distance from epipolar lines",
    "percent": "TSED",
    "typical_px": "typical epipolar distance",
    "moved_px": "features moved, frame to frame",
    "upper_psnr": "upper bound: real frames, PSNR",
    "lower_psnr": "lower bound: shuffled poses, PSNR",
    "copy_psnr": "copy of the nearest frame, PSNR",
    "held_out_psnr": "held-out views alone, PSNR",
    "input_psnr": "input view alone, PSNR",
    "gain_db": "above the lower bound",
    "place": "place between the bounds",
    "fid": "FID",
    "kid": "KID",
    "fvd": "FVD",
}
UNITS = {
    "r_err_deg": "deg",
    "r_err_rad": "rad",
    "r_err_sum_rad": "rad",
    "t_err": "spans",
    "t_err_sum": "spans",
    "r_err_deg_deviation": "deg",
    "r_floor_deg": "deg",
    "t_err_deviation": "spans",
    "t_floor": "spans",
    "percent": "%",
    "gain_db": "dB",
}
DIGITS = {"percent": 1, "gain_db": 2, "r_err_deg": 2, "fid": 2, "fvd": 2, "kid": 5}
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


def group_rows(name: str, group: dict[str, Any]) -> list[list[str]]:
    """Rows of one group's means: what it is, the value, and of how many clips, or why there is none."""
    rows = []
    for metric, entry in group.items():
        if metric in ("left_out", "clips", KEY):
            continue
        value = mean_of(group, metric)
        clips = "" if KEY in entry else str(entry["clips"])
        rows.append([label(metric), number(value, metric), clips])
    return rows


def label(metric: str) -> str:
    """What a metric is called."""
    if metric.startswith("ms_ssim_"):
        return f"MS-SSIM of {metric.removeprefix('ms_ssim_')} scales"
    return NAMES.get(metric, metric)


def number(value: float | NotAvailable, metric: str) -> str:
    """A number with its unit, or that it is not available."""
    if isinstance(value, NotAvailable):
        return NOT_AVAILABLE
    unit = UNITS.get(metric, "dB" if metric.endswith("psnr") else "")
    unit = "px" if metric.endswith("_px") else unit
    digits = DIGITS.get(metric, 2 if unit in ("dB", "px") else 3)
    return f"{value:.{digits}f} {unit}".rstrip()


def print_scores(summary: dict[str, Any]) -> None:
    """The means on the terminal, a table a group, with the reasons for what is not available."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name in GROUPS:
        if name not in summary:
            continue
        group = summary[name]
        if KEY in group:
            console.print(f"{TITLES[name]}: {NOT_AVAILABLE}: {group[KEY]}", soft_wrap=True)
            continue
        table = Table("", "mean", "clips", title=TITLES[name], title_justify="left")
        for row in group_rows(name, group):
            table.add_row(*row)
        console.print(table)
    if "sets" in summary:
        table = Table("", "value", title="Over all clips", title_justify="left")
        for row in _set_rows(summary["sets"]):
            table.add_row(*row[:2])
        console.print(table)
    for what, why in reasons(summary).items():
        console.print(f"{NOT_AVAILABLE}: {what}: {why}", soft_wrap=True, highlight=False)
    for note in summary.get("notes", []):
        console.print(f"note: {note}", soft_wrap=True, highlight=False)


def reasons(summary: dict[str, Any]) -> dict[str, str]:
    """Why each metric that is not available is not; metrics with one reason share a line."""
    found: dict[str, dict[str, None]] = {}
    for name in (*GROUPS, "sets"):
        group = summary.get(name, {})
        if KEY in group:
            continue
        for metric, entry in group.items():
            if isinstance(entry, dict) and KEY in entry:
                found.setdefault(entry[KEY], {})[label(metric)] = None
    return {", ".join(metrics): why for why, metrics in found.items()}


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
    tiles = [(number(mean_of(summary.get(g), m), m), text) for g, m, text in HEADLINES]
    report.tiles([(n.removesuffix(" spans"), text) for n, text in tiles if n != NOT_AVAILABLE])
    for note in summary.get("notes", []):
        report.note(note)
    if len(scored) == 1:
        _add_clip(report, folder / "pictures", scored[0])
    for name in GROUPS:
        if name in summary:
            _add_group(report, name, summary[name], scored)
    if "sets" in summary:
        report.section(
            "All clips as sets",
            "Distances between the frames (FID, KID) and videos (FVD) of all clips and of their references.",
        )
        report.table(["", "value", "samples", "note"], _set_rows(summary["sets"]))
    if missing := reasons(summary):
        report.section("Not available", "What could not be measured, and how to have it.")
        report.table(["metric", "why"], [list(item) for item in missing.items()])
    if len(scored) > 1:
        _add_examples(report, folder / "pictures", scored)
        _add_table(report, scored)
    if summary["failed"]:
        report.section("Clips that could not be scored")
        report.table(["clip", "why"], [[name, why] for name, why in summary["failed"].items()])
    report.section("How it was made")
    report.table(
        ["stage", "seconds a clip"],
        [[name, f"{value:.2f}"] for name, value in summary["seconds_per_clip"].items()],
    )
    report.note(f"Peak memory: {summary['peak_memory_mib']:,} MiB.")
    made_of = {key: summary[key] for key in ("identity", "config", "environment")}
    report.details("Settings, versions and hashes", json.dumps(made_of, indent=1))
    report.write(folder / "report.html")


def _add_group(
    report: Report, name: str, group: dict[str, Any], scored: Sequence[dict[str, Any]]
) -> None:
    report.section(TITLES[name], TEXTS[name])
    if KEY in group:
        report.note(f"{NOT_AVAILABLE}: {group[KEY]}")
        return
    if name == "consistency":
        _add_bounds(report, group)
    columns = ["", "mean", "clips"] if len(scored) > 1 else ["", "value"]
    report.table(columns, [row[: len(columns)] for row in group_rows(name, group)])
    for why, count in group.get("left_out", {}).items():
        report.note(f"{count} of {len(scored)} clips: {NOT_AVAILABLE}: {why}")
    if charts := _charts(name, scored):
        report.charts(charts)
    if name == "consistency":
        for line in scored:
            if available(line.get(name)):
                for remark in line[name]["remarks"]:
                    report.note(f"{line['source']}: {remark}")


def _add_bounds(report: Report, group: dict[str, Any]) -> None:
    bars = {
        "these frames": mean_of(group, "psnr"),
        "real frames": mean_of(group, "upper_psnr"),
        "shuffled poses": mean_of(group, "lower_psnr"),
        "nearest, copied": mean_of(group, "copy_psnr"),
    }
    known = {k: None if isinstance(v, NotAvailable) else v for k, v in bars.items()}
    report.bars({"PSNR of predicted views": known}, "these frames", " dB")


def _charts(name: str, scored: Sequence[dict[str, Any]]) -> list[LineChart]:
    wanted = {
        "images": [
            ("psnr", "PSNR over time", "frame", "dB"),
            ("ssim", "SSIM over time", "frame", ""),
        ],
        "camera": [
            ("rotation_deg", "Rotation error over time", "placed frame", "deg"),
            ("translation", "Position error over time", "placed frame", "spans"),
        ],
        "photometric": [
            ("rotation_deg", "Rotation error over time", "frame", "deg"),
            ("translation", "Position error over time", "frame", "spans"),
        ],
        "tsed": [
            ("median_px", "Median epipolar distance", "pair of frames", "px"),
            ("num_matches", "Matching features", "pair of frames", ""),
        ],
        "consistency": [
            ("psnr", "Predicted views, PSNR", "held-out view", "dB"),
            ("ssim", "Predicted views, SSIM", "held-out view", ""),
        ],
    }[name]
    charts = []
    for metric, title, x_label, unit in wanted:
        lines = [
            Line(line["source"] if len(scored) <= MANY else "", values, number % 6)
            for number, line in enumerate(scored)
            if (values := _values(name, line, metric))
        ]
        if lines:
            charts.append(LineChart(title, x_label, unit, lines))
    return charts


def _values(name: str, line: dict[str, Any], metric: str) -> list[float | int | None]:
    """A clip's values over time; nothing where it has none."""
    row = line.get(name)
    if row is None or KEY in row:
        return []
    found: Any = row.get(metric)
    if name == "images":
        found = found.get("per_view", []) if isinstance(found, dict) else []
    elif name == "consistency":
        found = row["held_out"].get(metric)
    elif name in ("camera", "photometric") and isinstance(found, list):
        found = [None, *found]
    return found if isinstance(found, list) else []


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
    caption = f"{source}, {line['frames']} frames of {height}x{width}: {', '.join(told)}"
    video = picture_file(pictures, item, ".mp4")
    if video.is_file():
        report.video(video, caption)
    for path, text in (
        (picture_file(pictures, item), f"{source}, over time"),
        (
            picture_file(pictures, item, SCENE),
            f"{source}: views that were held out, and what the scene fitted to the others shows there",
        ),
        (
            picture_file(pictures, item, PATH),
            f"{source}: where the camera was, each path in its span",
        ),
    ):
        if path.is_file():
            report.image(path, text)


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


def _set_rows(sets: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, entry in sets.items():
        if KEY in entry:
            rows.append([label(name), NOT_AVAILABLE, "", ""])
        else:
            value = number(entry["value"], name)
            rows.append([label(name), value, str(entry["samples"]), entry.get("note", "")])
    return rows


def _protocol(config: dict[str, Any]) -> str:
    protocol = config["protocol"]
    return protocol if isinstance(protocol, str) else json.dumps(protocol)

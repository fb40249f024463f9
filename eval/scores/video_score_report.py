"""The video score for people: the tables on the terminal, and the page with plots, videos and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.clips.group_sections import (
    add_groups,
    add_reasons,
    add_result_pictures,
    add_sets,
    headline_tiles,
)
from eval.clips.groups import GROUPS
from eval.clips.tables import Groups, print_groups, print_sets
from eval.pages.html_report import Report
from eval.pages.line_chart import Line, LineChart
from eval.scores.report_parts import add_failed, add_making
from eval.scores.score_run import picture_file
from eval.scores.video_groups import BOUNDS
from eval.scores.video_scoring import (
    METHODS,
    PATHS,
    SCENE,
    SCENE_BASELINES,
    VIDEO,
    VIDEO_BASELINES,
    Scene,
    scene_measures,
    scored_scenes,
)

MEASURES = {
    "motion_share": "motion share",
    "two_way_choice": "two-way choice",
    "matched_minus_crossed_db": "matched − crossed, dB",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}
DIGITS = {"matched_minus_crossed_db": 2, "psnr": 2}
WITH_ERROR = ("motion_share", "two_way_choice", "matched_minus_crossed_db", "psnr")
NOT_AVAILABLE = "not available"
NUM_SHOWN = 3
VIDEO_TEXT = (
    "Each scene has two true videos that leave one first frame in opposite directions, and the model makes one"
    " for either. Motion share: the share of the commanded motion that best explains a late frame (a still copy"
    " has 0). Two-way choice: how often a video is nearer to its own path's truth than to the other's (chance is"
    " 0.5). Matched − crossed: by how many dB. PSNR alone rewards standing still. All frames but the first count;"
    " equal frames have 60 dB; ± is the standard error over scenes."
)
SCENE_TEXT = (
    "The generated latents become Gaussians, rendered along the commanded path and held against the truth. Below"
    " them stand what needs no model at all, and the ceiling: LaLRM's scene of the true frames."
)
GROUPS_TEXT = (
    "As `score CLIP` has them, over both paths of all scenes; here the first frame counts too. True frames: the same"
    " measure where every camera is right, so what is left is the measure's own error."
)
PICTURES_TEXT = (
    "By how much nearer the generated videos are to their own path's truth than to the other's. In each video,"
    " from left to right: truth, generated video, rendered scene; above, the scene's own path, below, the"
    " mirrored one."
)


def score_rows(
    ours: str, measured: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: our method, then its baselines, with every measure and its standard error."""
    rows = [[METHODS[ours], *_cells(measured)]]
    rows += [[text, *_cells(values)] for text, values in _named(measured["baselines"], names)]
    return ["", *MEASURES.values()], rows


def print_scores(summary: dict[str, Any]) -> None:
    """Both tables on the terminal, our rows in bold; without standard errors, to be narrow."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = [name for name in MEASURES if name not in summary["not_available"]]
    for title, ours, measured, names in _tables(summary):
        table = Table("", title=title, title_justify="left")
        for name in shown:
            table.add_column(MEASURES[name], justify="right")
        for text, values in ((METHODS[ours], measured), *_named(measured["baselines"], names)):
            cells = [_cell(values[name], name) for name in shown]
            table.add_row(text, *cells, style="bold" if values is measured else None)
        console.print(table)
    for hint in summary["not_available"].values():
        console.print(hint)
    print_sets(console, summary)
    print_groups(console, summary, _beside(summary))


def write_video_report(
    folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
) -> None:
    """The page of a video score; the scenes' pictures are in `folder`/pictures."""
    config = summary["config"]
    steered = "no camera branches" if config["branches"] is None else config["branches"]
    report = Report(
        "Video scores",
        f"{summary['scenes']} scenes from {config['data']}, {len(PATHS)} paths each. Base: {config['base']};"
        f" cameras: {steered}; scenes by {config['lalrm']}.",
    )
    report.tiles(
        [
            (_cell(summary["motion_share"], "motion_share"), "motion share"),
            (_cell(summary["two_way_choice"], "two_way_choice"), "two-way choice"),
            (f"{_cell(summary['matched_minus_crossed_db'], 'psnr')} dB", "matched − crossed"),
            (f"{_cell(summary['psnr'], 'psnr')} dB", "video against truth, PSNR"),
            (
                f"{_cell(summary['image_to_scene']['psnr'], 'psnr')} dB",
                "scene against truth, PSNR",
            ),
            (f"{summary['num_gaussians']:,}", "Gaussians a scene"),
            *headline_tiles({name: summary.get(name) for name in GROUPS if name != "images"}),
        ]
    )
    for (title, ours, measured, names), text in zip(
        _tables(summary), (VIDEO_TEXT, SCENE_TEXT), strict=True
    ):
        report.section(title, text)
        report.table(*score_rows(ours, measured, names), ours=METHODS[ours])
    for hint in summary["not_available"].values():
        report.note(f"{hint}.")
    scenes = list(scored_scenes(lines))
    if any(name in summary for name in GROUPS):
        report.section("Further measures of the generated videos", GROUPS_TEXT)
    add_groups(report, summary, [line for scene in scenes for line in scene], _beside(summary))
    add_sets(report, summary)
    add_reasons(report, summary)
    report.section("Frame by frame, and video by video")
    report.charts(_charts(summary["by_frame"], scenes))
    _add_examples(report, folder / "pictures", scenes)
    report.section("Every scene")
    report.table(
        ["scene", *(MEASURES[name] for name in MEASURES if name != "lpips"), "scene PSNR, dB"],
        [_scene_row(scene) for scene in _ranked(scenes)],
    )
    add_failed(report, summary, "Scenes")
    add_making(report, summary, "scene")
    report.write(folder / "report.html")


def _tables(
    summary: dict[str, Any],
) -> tuple[tuple[str, str, dict[str, Any], dict[str, str]], ...]:
    """Title, our method, its measures, and the names of its baselines, of either table."""
    return (
        ("Does the video follow its camera?", VIDEO, summary, VIDEO_BASELINES),
        ("From one image to a scene", SCENE, summary["image_to_scene"], SCENE_BASELINES),
    )


def _beside(summary: dict[str, Any]) -> dict[str, Groups]:
    """What stands beside the groups of the generated video, by its heading."""
    return {METHODS[name]: groups for name, groups in summary.get(BOUNDS, {}).items()}


def _named(
    baselines: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((text, baselines[name]) for name, text in names.items())


def _charts(by_frame: dict[str, Any], scenes: Sequence[Scene]) -> list[LineChart]:
    matched, crossed = by_frame["psnr"], by_frame["crossed_psnr"]
    against = (("its own path's truth", matched, False), ("the other's", crossed, True))
    return [
        _chart_over_time(
            "Own path and the other",
            "PSNR, dB",
            [
                Line(f"{name}, {text}", values[name], colour, dashed)
                for colour, name in enumerate((VIDEO, SCENE))
                for text, values, dashed in against
            ],
        ),
        _chart_of_shares(scenes),
        *(
            _chart_over_time(
                "Beside the baselines",
                MEASURES[measure],
                [
                    Line(METHODS[name], by_frame[measure][name], colour)
                    for colour, name in enumerate(METHODS)
                    if name != "true_frames"
                ],
            )
            for measure in ("psnr", "ssim")
        ),
    ]


def _chart_over_time(title: str, y_label: str, lines: Sequence[Line]) -> LineChart:
    """Lines without their first frame, which is the image that went in."""
    return LineChart(
        title,
        "frame",
        y_label,
        [replace(line, values=[None, *line.values[1:]]) for line in lines],
    )


def _chart_of_shares(scenes: Sequence[Scene]) -> LineChart:
    shares = {
        name: sorted(
            share
            for scene in scenes
            for line in scene
            if (share := line["motion_share"][name]) is not None
        )
        for name in (VIDEO, SCENE, "still", "true_frames")
    }
    return LineChart(
        "Motion share of every video",
        "videos, in order",
        "1 is the commanded motion",
        [
            Line(METHODS[name], values, colour)
            for (name, values), colour in zip(shares.items(), (0, 1, 5, 2), strict=True)
        ],
    )


def _add_examples(report: Report, pictures: Path, scenes: Sequence[Scene]) -> None:
    ranked = _ranked(scenes)
    for heading, chosen in example_scenes(ranked).items():
        report.section(f"{heading} scenes", PICTURES_TEXT if heading == "Best" else "")
        for scene in chosen:
            number, found = scene[0]["scene"], scene_measures(scene)
            caption = (
                f"{_name(scene)}: {_cell(found['matched_minus_crossed_db'], 'psnr')} dB nearer,"
                f" motion share {_cell(found['motion_share'], 'motion_share')},"
                f" PSNR {_cell(found['psnr'], 'psnr')} dB"
            )
            report.video(picture_file(pictures, number, ".mp4"), caption)
            report.image(picture_file(pictures, number), f"{_name(scene)}, over time")
            for path in PATHS:
                add_result_pictures(report, pictures, number, f"{_name(scene)}, {path}", f"_{path}")


def example_scenes(ranked: Sequence[Scene]) -> dict[str, Sequence[Scene]]:
    """A few of the best, of those in the middle, and of the worst, none twice; from best to worst."""
    count = min(NUM_SHOWN, max(1, len(ranked) // 3))
    middle = max(count, (len(ranked) - count) // 2)
    found = {
        "Best": ranked[:count],
        "Median": ranked[middle : middle + count],
        "Worst": ranked[max(middle + count, len(ranked) - count) :],
    }
    return {heading: scenes for heading, scenes in found.items() if scenes}


def _ranked(scenes: Sequence[Scene]) -> list[Scene]:
    return sorted(scenes, key=lambda s: -(scene_measures(s)["matched_minus_crossed_db"] or 0.0))


def _scene_row(scene: Scene) -> list[str]:
    found = scene_measures(scene)
    cells = [_cell(found[name], name) for name in MEASURES if name != "lpips"]
    return [_name(scene), *cells, _cell(scene_measures(scene, SCENE)["psnr"], "psnr")]


def _name(scene: Scene) -> str:
    return str(scene[0]["source"]).rpartition("/")[0]


def _cells(measured: Mapping[str, Any]) -> list[str]:
    errors = measured["standard_error"]
    return [_cell(measured[m], m, errors[m] if m in WITH_ERROR else None) for m in MEASURES]


def _cell(value: float | None, measure: str, error: float | None = None) -> str:
    if value is None:
        return NOT_AVAILABLE if measure == "lpips" else "–"
    digits = DIGITS.get(measure, 3)
    return f"{value:z.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")

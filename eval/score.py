"""The `score` command: any method's frames, or a model over held-out clips beside its baselines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, EXIT_USER, UserError, run_command

if TYPE_CHECKING:
    from eval.scores.score_run import ScoreRun

DESCRIPTION = """\
Scores frames that any method made, or a model over a fixed set of clips.

Frames: a video, a folder of frames, a capture with transforms.json, a shard folder, or a folder of several of these
(cameras, references and input images are then folders too, matched by name).

  ./launch.sh score my_video.mp4 --cameras path.json
  ./launch.sh score my_videos --cameras my_cameras --reference real_videos --protocol wonderland
  ./launch.sh score my_capture --metrics consistency
  ./launch.sh score my_video.mp4 --cameras path.txt consistency.fit.passes=20

  images       PSNR, SSIM, MS-SSIM, LPIPS, FID, KID, FVD against --reference
  camera       R_err and T_err by structure from motion on the frames
  tsed         feature matches of neighbouring frames against the commanded cameras
  photometric  R_err and T_err from the pixels alone, for frames too small or smooth for features
  consistency  a scene fitted to a part of the frames predicts the others (3DiM's score), with its bounds

Camera files: RealEstate10K, transforms.json, nerfstudio's camera paths, COLMAP models, ViewCrafter, and ours
(`generate --list-paths` describes them). key=value sets any key of configs/eval/clips.yaml.

A model: a recipe, whose `kind` says what is scored.

  reconstruction  LaLRM's scenes of posed clips: on views that were given, new ones near by, and new ones far off
  video           the video model: whether its videos follow their cameras, and the scenes made of one image;
                  'metrics=[images,photometric,consistency]' measures its videos as above
  refinement      scenes from one image, before and after `refine`
  clips           frames, as above

  ./launch.sh score configs/eval/tiny_reconstruction.yaml
  ./launch.sh score configs/eval/tiny_reconstruction.yaml lalrm=runs/mine/weights out=runs/score/mine
  ./launch.sh score configs/eval/tiny_video.yaml num_scenes=8 out=runs/score/quick

Writes to --out: clips.jsonl (one line a clip), summary.json, pictures/ and report.html. An interrupted run goes on
where it stopped when the same command is given again; `./launch.sh score --nproc N` shares the clips among N
processes. What is not available is never a number; the reason stands in its place.

consistency fits a scene ten times, each quarter of the frames held out once, with right poses and with shuffled ones:
on one core about 50 s for 24 frames of 64x96 and three minutes for 128x192. consistency.seeds=[0] fits four times.

Exit codes: 0 done; 2 a clip could not be scored, or a single clip has no camera error or no 3D consistency though
asked for it (the last lines say why; all else is written); 1 a bug.
"""
RECIPES = {".yaml", ".yml"}
OPTIONS = ("cameras", "reference", "input", "out", "size", "fov", "protocol", "metrics")
KEYS = ("seed", "threads")
"""Options that a recipe takes as key=value instead."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_intermixed_args(argv)

    from eval.scores.score_kinds import create_clip_score, create_score
    from eval.scores.score_ranks import scoring_ranks

    with scoring_ranks() as ranks:
        if args.source.suffix.lower() in RECIPES:
            _refuse_options(args)
            score = create_score(args.source, args.overrides)
        else:
            score = create_clip_score([*_as_overrides(args), *args.overrides])
        return _run(score, ranks)


def build_parser() -> argparse.ArgumentParser:
    """The command line of `score`."""
    from data.command_options import image_size

    parser = argparse.ArgumentParser(
        prog="launch.sh score",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, metavar="CLIP|RECIPE", help="frames to score, or a YAML recipe"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings, anywhere in the line, such as consistency.held_out_every=3",
    )
    parser.add_argument("--cameras", type=Path, help="the cameras that were asked for")
    parser.add_argument("--reference", type=Path, help="real frames of the same views")
    parser.add_argument("--input", type=Path, help="the image that the method was given")
    parser.add_argument("--out", type=Path, help="default: runs/score/NAME")
    parser.add_argument("--protocol", help="all (default) or wonderland")
    parser.add_argument(
        "--metrics",
        help="groups, with commas: images,camera,tsed,photometric,consistency (default: all)",
    )
    parser.add_argument(
        "--size", type=image_size, metavar="HxW", help="resize and crop everything (default: keep)"
    )
    parser.add_argument(
        "--fov", type=float, metavar="DEG", help="vertical field of view, if the file has none"
    )
    parser.add_argument("--seed", type=int, help="of fits and of structure from motion")
    parser.add_argument("--threads", type=int, help="of torch and of the renderer (default: 1)")
    parser.add_argument("--restart", action="store_true", help="throw away what --out holds")
    return parser


def run_with_progress(run: ScoreRun) -> None:
    """Scores what is missing under a bar that shows the last item's scores and what is being done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    score, console = run.score, Console(stderr=True)
    if run.num_done:
        console.print(f"going on after {run.num_done} {score.noun}s that {run.folder} has already")
    fitting = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("scoring"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}", table_column=fitting),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("", total=score.num_items, completed=run.num_done)

        def on_item(lines: list[dict[str, Any]]) -> None:
            failed = "error" in lines[0]
            told = f"{lines[0]['source']}: failed" if failed else score.headline(lines)
            progress.update(task, advance=1, description=told)

        run.run(on_item, lambda words: progress.update(task, description=words))


def _run(score: Any, ranks: Any) -> int:
    from eval.scores.score_run import ScoreRun

    run = ScoreRun(score, ranks)
    if not ranks.is_first:
        run.run()
        return EXIT_DONE
    run_with_progress(run)
    summary = run.write_summary()
    report = run.write_report(summary)
    score.print_scores(summary)
    unmeasured = summary.get("unmeasured", {})
    for source, questions in unmeasured.items():
        for what, why in questions.items():
            print(f"not measured: {source}: {what}: {why}")
    for source, why in summary["failed"].items():
        print(f"not scored: {source}: {why}")
    print(f"report: {report}\nnumbers: {run.folder / 'summary.json'}")
    alone = score.num_items == 1 and unmeasured
    return EXIT_USER if summary["failed"] or alone else EXIT_DONE


def _refuse_options(args: argparse.Namespace) -> None:
    given = [name for name in (*OPTIONS, *KEYS) if getattr(args, name) is not None]
    if args.restart:
        given.append("restart")
    if given:
        name = given[0]
        raise UserError(
            f"--{name} is for frames, and {args.source} is a recipe; give its keys as key=value, such as"
            f" {name}=..."
        )


def _as_overrides(args: argparse.Namespace) -> list[str]:
    """The options as `key=value` of a recipe of kind `clips`."""
    name = args.source.absolute()
    stem = name.stem if name.is_file() else name.name
    if stem == "transforms":
        stem = name.parent.name
    found: dict[str, Any] = {
        "kind": "clips",
        "data": str(args.source),
        "out": str(args.out or Path("runs/score") / stem),
    }
    for option in ("cameras", "reference", "input"):
        if (path := getattr(args, option)) is not None:
            found[option] = str(path)
    if args.size is not None:
        found["size"] = list(args.size)
    if args.metrics is not None:
        found["metrics"] = [word.strip() for word in args.metrics.split(",") if word.strip()]
    for option in ("fov", "protocol", "seed", "threads"):
        if (value := getattr(args, option)) is not None:
            found[option] = value
    if args.restart:
        found["restart"] = True
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


if __name__ == "__main__":
    run_command(main)

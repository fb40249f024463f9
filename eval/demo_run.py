"""What `demo` does: a held-out procedural scene's first frame through the pipeline, against the truth."""

from __future__ import annotations

import time
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.progress_bars import stage_bars
from eval.pages.clip_pictures import spread
from eval.pages.generated_outputs import FILES, print_generated, write_generated
from eval.pages.html_report import Report
from eval.reconstruction import render_scene
from eval.replaced_folder import replaced_folder
from eval.scores.image_to_scene import GROUPS, METHODS, OURS, ImageToScene, image_to_scene
from models.bundled_weights import TINY_PIPELINE
from models.pipeline import ImageToScenePipeline
from models.video.sampling import SamplingStep

HONEST = (
    "These models are tiny and trained on procedural scenes alone: the video follows the camera and keeps the"
    " layout, but it is soft, dissolves in later frames, and guesses what comes into view; a plain reprojection"
    " of the image can beat it, and photographs fare worse. They show that the whole path works, not what the"
    " method can reach."
)
TRAVEL = (0.15, 0.45)
"""Length of the demo's path in median depths: as calm as those that the video model was trained on."""
SHOWN = 5


def run_demo(seed: int, out: Path, folder: Path | None = None) -> None:
    """Makes and compares the scene, writes its files to `out`, and prints what came of it."""
    console = Console(stderr=True)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    pipeline = ImageToScenePipeline.from_pretrained(folder or TINY_PIPELINE)
    seconds["load models"] = time.monotonic() - started
    height, width = pipeline.frame_size
    config = SceneConfig(
        height=height, width=width, num_frames=pipeline.clip_frames, num_far=0, travel=TRAVEL
    )
    with replaced_folder(out, FILES) as target:
        started = time.monotonic()
        with console.status("making the scene's true pictures, and starting the renderer"):
            clip = make_clip(seed, config)
            render_scene(pipeline.reconstruct(clip), clip.cameras.select(0))
        seconds["true pictures, start"] = time.monotonic() - started
        with stage_bars() as progress:

            def on_step(step: SamplingStep) -> None:
                progress("sampling video", step.done, step.total)

            result = image_to_scene(clip, pipeline, on_step=on_step)
        started = time.monotonic()
        with console.status("writing scene, videos, viewer and report"):
            summary = write_generated(
                target,
                result.scene,
                result.photo,
                "the clip's own",
                {"seed": seed, "scene": config.model_dump(mode="json")},
                other_seconds=seconds,
                title="Stillscape demo: one image becomes a scene",
                measured={"psnr": result.psnr, "ssim": result.ssim, "lpips": result.lpips},
                add_sections=lambda report: add_truth(report, result, clip.frames),
            )
        print_generated(result.scene, summary, time.monotonic() - started)
    print_comparison(result)
    Console().print(HONEST, highlight=False)


def rows(result: ImageToScene) -> list[list[str]]:
    """A method and its PSNR / SSIM in each group, where it has pictures."""
    return [
        [
            label,
            *(
                f"{result.psnr[name][group]:.2f} / {result.ssim[name][group]:.3f}"
                if group in result.psnr[name]
                else ""
                for group in GROUPS
            ),
        ]
        for name, label in METHODS.items()
    ]


def print_comparison(result: ImageToScene) -> None:
    """The table against the truth."""
    table = Table("PSNR (dB) / SSIM")
    for label in GROUPS.values():
        table.add_column(label, justify="right")
    for row in rows(result):
        table.add_row(*row, style="bold" if row[0] == METHODS[OURS] else None)
    Console().print(table)


def add_truth(report: Report, result: ImageToScene, truth: Float[Tensor, "v 3 h w"]) -> None:
    """The page's section that compares all methods with the true views."""
    report.section("Against the truth", HONEST)
    report.table(["PSNR (dB) / SSIM", *GROUPS.values()], rows(result), ours=METHODS[OURS])
    views = spread(result.groups["path"], SHOWN)
    pictures = [[truth[view] for view in views]]
    pictures += [[result.frames[name][view] for view in views] for name in METHODS]
    report.pictures(pictures, ["truth", *METHODS.values()], [f"frame {view}" for view in views])

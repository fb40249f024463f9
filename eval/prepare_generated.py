"""The command `prepare generated`: shards of clips that the video model made, with its latents."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from configs.errors import EXIT_DONE, run_command
from data.command_options import (
    add_clips_per_shard,
    add_existing_options,
    add_image_options,
    existing_choice,
    natural,
    positive,
    sample_format,
)
from data.work_share import add_share_options, own_share

DESCRIPTION = """\
Has the video model make clips from images along camera paths, as training data: decoded frames, their cameras,
and beside them the latents as the model drew them, which LaLRM learns to read in its second stage.

  ./launch.sh prepare generated --clips 512 --seed 20000000 --out runs/data/tiny_generated
  ./launch.sh prepare generated --images my_photos --paths orbit dolly pan:15 --clips 100 --out shards/generated
  ./launch.sh prepare generated --images shards/re10k --paths own --clips 20000 --pipeline weights/full \\
      --device cuda --batch 4 --out shards/generated_480x720

Clip i depends on its image, --seed and the other settings alone, not on --clips: a longer set begins with the
shorter one. Procedural image i is that of seed SEED + i, so give sets whose seeds don't overlap. With --nproc N, under
srun or in a SLURM job array each process makes its share, on its own GPU.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = build_parser().parse_args(argv)
    from data.camera_paths import PATHS
    from data.paired_shards import PairedWriter
    from data.progress_bars import stage_bars
    from data.shard_report import report, report_share
    from data.views import check_frame_count
    from eval.first_frames import open_first_frames
    from eval.generate_run import memory_explained, open_pipeline, sampling_cures, sampling_of
    from eval.generated_shards import ClipPlan, write_generated_clips
    from models.autoencoders.latent_shards import GENERATED, LATENTS, latents_recipe
    from models.pretrained import weights_digest
    from models.video.sampling import SamplingStep

    share = own_share(args)
    pipeline = open_pipeline(args, share)
    sampling = sampling_of(args, pipeline.sampling)
    num_frames = check_frame_count(args.frames or pipeline.clip_frames, "--frames")
    height, width = pipeline.frame_size
    images = open_first_frames(
        args.images, height=height, width=width, num_frames=num_frames, first_seed=args.seed
    )
    plan = ClipPlan(args.seed, num_frames, tuple(args.paths or PATHS), tuple(args.strength))
    plan.check(images)

    folders = _weights_folders(args)
    recipe = {
        "source": "generated",
        "images": images.describe(),
        **plan.describe(),
        "sampling": sampling.model_dump(mode="json"),
        "weights": {name: weights_digest(folder) for name, folder in folders.items()},
    }
    writer = PairedWriter(
        args.out,
        LATENTS,
        recipe=recipe,
        tensors_recipe={**latents_recipe(folders["autoencoder"], num_frames), GENERATED: True},
        sample_format=sample_format(args),
        clips_per_shard=args.clips_per_shard,
        existing=existing_choice(args),
        expected=args.clips,
        share=share,
    )
    started = time.monotonic()
    with (
        writer,
        stage_bars(shown=share.is_first) as progress,
        memory_explained(sampling_cures(args)),
    ):
        done_before, to_do = writer.num_done, writer.num_to_do

        def on_step(step: SamplingStep) -> None:
            progress("sampling", step.done, step.total)

        def on_clips(added: int) -> None:
            progress("clips", writer.num_own - writer.num_to_do, writer.num_own)

        on_clips(0)
        write_generated_clips(
            writer,
            pipeline,
            images,
            plan,
            batch_size=args.batch,
            sampling=sampling,
            progress=on_clips,
            on_step=on_step,
        )
    seconds = time.monotonic() - started
    speed = f"{seconds:.1f} s, {60 * to_do / max(seconds, 1e-9):.1f} clips a minute"
    if not writer.is_finished:
        report_share(args.out, share, speed)
        return EXIT_DONE
    report(
        args.out,
        {
            "made of": f"{args.images}, {len(plan.paths)} kinds of paths",
            "went on after": f"{done_before} clips" if done_before else "",
            "time": speed,
        },
    )
    return EXIT_DONE


def _weights_folders(args: argparse.Namespace) -> dict[str, Path]:
    """The folders of all weights that the clips depend on, by part."""
    from models.bundled_weights import TINY_PIPELINE
    from models.pipeline_files import PartFolders, read_pipeline_file

    named = PartFolders(**{name: getattr(args, name) for name in vars(PartFolders())})
    folders = read_pipeline_file(args.pipeline or TINY_PIPELINE)[0].replaced(named)
    parts = ("autoencoder", "video_base", "camera_branches", "text_encoder")
    return {name: folder for name in parts if (folder := getattr(folders, name)) is not None}


def build_parser() -> argparse.ArgumentParser:
    from eval.generate import add_model_options, add_sampling_options

    parser = argparse.ArgumentParser(
        prog="launch.sh prepare generated",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=positive, required=True, help="number of clips")
    parser.add_argument(
        "--images",
        default="procedural",
        metavar="FOLDER",
        help='photographs, shards (their first frames), or "procedural" (default: %(default)s)',
    )
    parser.add_argument(
        "--paths",
        nargs="+",
        metavar="PATH",
        help="drawn from at random for each clip: names, NAME:AMPLITUDE, joined ones, files, or own, the path that"
        " was really taken from the image (default: every named path)",
    )
    parser.add_argument(
        "--strength",
        nargs=2,
        type=float,
        default=(0.4, 1.2),
        metavar=("LOW", "HIGH"),
        help="share of a named path's usual amplitude, drawn for each clip (default: 0.4 1.2)",
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="of paths, noise and procedural images (default: 0)"
    )
    parser.add_argument(
        "--frames", type=positive, help="8k+1 (default: as the video model was trained)"
    )
    parser.add_argument(
        "--batch", type=positive, default=1, help="clips at once, for more memory (default: 1)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="shard folder")
    add_clips_per_shard(parser)
    add_image_options(parser)
    add_existing_options(parser)
    add_share_options(parser)
    add_sampling_options(parser.add_argument_group("sampling (defaults are the pipeline's)"))
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    run_command(main)

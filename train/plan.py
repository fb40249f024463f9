"""The `plan` command: what a recipe takes on a given cluster, before anyone rents it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import EXIT_DONE, UserError, run_command

if TYPE_CHECKING:
    from train.planning.cluster import Cluster
    from train.planning.planner import Plan
    from train.tasks.registry import Recipe

DESCRIPTION = """\
Takes a recipe through one whole training step under fake tensors (no weights, no shards, no GPU), so that a wrong
shape, dtype or device shows here, and says what the run takes: parameters, tokens, FLOPs, memory of a GPU for each
ZeRO stage, time, data, checkpoints, and whether it fits.

  ./launch.sh plan configs/full/video_camera.yaml --nodes 3 --gpus 8
  ./launch.sh plan configs/full/reconstruction_stage2.yaml --nodes 3 --gpus 8 --gpu-memory 40 engine.zero_stage=3
  ./launch.sh plan configs/tiny/video_camera.yaml --json plan.json

Weights that are not here are looked up by name in configs/full (CogVideoX-5b-I2V); the size of frames is that of the
shards, else the recipe's task.frame_size.
"""
ASSUMPTIONS = """\
what the figures rest on:
  Memory is counted tensor by tensor, as the step makes and frees them. On small models here it is within 15 % of what
  PyTorch's allocator measures, and FLOPs are equal to PyTorch's counter (tests/train/planning). What is not
  counted is left to --reserve, which is assumed: CUDA context, NCCL, work space of cuBLAS, cuDNN and flash attention,
  fragmentation.
  Memory is that of training steps. Validation is not counted: there the averaged weights are swapped in, with a copy of
  all trained weights kept until its end, and clips are sampled, decoded or drawn.
  ZeRO 0 to 3 is as DeepSpeed 0.19.8 does it for float32 weights, with its buckets; of stage 3 the weights that are
  gathered at once are an upper bound.
  Gaussians are drawn as gsplat 1.5.3 does, every one seen in every view and touching 2.6 tiles of 16 px.
  FLOPs are those of matrix products, convolutions and attention. Time is FLOPs over --peak-tflops times
  --utilisation, both of which are assumed. Network, data, validation and checkpoints take more, and so does drawing
  unless --splats-per-second tells how fast it is: for LaLRM that may be most of the time, so that it says "at least".
  GB are 2^30 bytes, as GPU vendors count.

exit codes: 0 done, whether it fits or not (--json has "fits"); 2 something to fix, told in one message.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    args = build_parser().parse_intermixed_args(argv)
    _check(args)

    import json

    from configs.loader import load_config
    from data.durable_files import write_durably
    from train.planning.plan_report import plan_numbers, print_plan
    from train.tasks.registry import Recipe

    recipe = load_config(args.recipe, args.overrides, Recipe)
    plan = _make_plan(recipe, _cluster(args), args.recipe)
    print_plan(plan)
    if args.json:
        write_durably(args.json, (json.dumps(plan_numbers(plan), indent=1) + "\n").encode())
        print(f"numbers: {args.json}")
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.sh plan",
        description=DESCRIPTION,
        epilog=ASSUMPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, such as configs/full/*.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="on each node (default: %(default)s)"
    )
    parser.add_argument(
        "--gpu-memory",
        type=float,
        default=80.0,
        metavar="GB",
        help="of each (default: %(default)s)",
    )
    parser.add_argument(
        "--reserve",
        type=float,
        default=0.08,
        metavar="SHARE",
        help="of a GPU's memory, for what is not counted (default: %(default)s)",
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=989.4,
        metavar="T",
        help="of a GPU in bf16, without sparsity (default: an H100 SXM's, %(default)s)",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of the peak that a step reaches (default: %(default)s)",
    )
    parser.add_argument(
        "--splats-per-second",
        type=float,
        metavar="N",
        help="that a GPU draws, forwards and backwards, where that is known: adds their time",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    return parser


def _make_plan(recipe: Recipe, cluster: Cluster, file: Path) -> Plan:
    """The plan, with a line that says what is being done meanwhile."""
    import logging
    import warnings

    from rich.console import Console

    from train.planning.planner import make_plan

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings(), Console(stderr=True).status("reading the recipe") as status:
        warnings.simplefilter("ignore")  # what libraries say of tensors without values is of no use
        return make_plan(recipe, cluster, file, status.update)


def _cluster(args: argparse.Namespace) -> Cluster:
    from train.planning.cluster import GIB, Cluster

    return Cluster(
        nodes=args.nodes,
        gpus_per_node=args.gpus,
        gpu_memory=args.gpu_memory * GIB,
        reserve=args.reserve,
        peak=args.peak_tflops * 1e12,
        utilisation=args.utilisation,
        splat_rate=args.splats_per_second,
    )


def _check(args: argparse.Namespace) -> None:
    for name in ("nodes", "gpus", "gpu_memory", "peak_tflops", "splats_per_second"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is {getattr(args, name)}; expected more than 0")
    if not 0 <= args.reserve < 1:
        raise UserError(f"--reserve is {args.reserve}; expected a share from 0 to below 1")
    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation is {args.utilisation}; expected a share above 0, at most 1")


if __name__ == "__main__":
    run_command(main)

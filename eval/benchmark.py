"""The `benchmark` command: how fast the parts run, each beside a peer or a limit measured in the same run.

Absolute times differ from machine to machine and from hour to hour; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, run_command

if TYPE_CHECKING:
    from models.rendering.render import Backend

DESCRIPTION = """\
Times the rasteriser, a training step and the data loader, and prints each beside its peer or limit.

  python -m eval.benchmark                      # all three, a few minutes
  python -m eval.benchmark rasteriser --json runs/benchmark.json
"""
PARTS = ("rasteriser", "train", "loader")
SIZES = {"training": (26_112, 64, 96, 4), "large": (100_000, 256, 256, 1)}
"""Gaussians, height, width and views of the rasteriser's scenes."""
REFERENCE_SIZE = (1_000, 64, 96, 1)
"""Small, since the reference's memory grows with Gaussians times pixels."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmark",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=PARTS, help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(args.threads)
    numbers: dict[str, Any] = {"threads": args.threads, "limits": machine_limits(args.repeats)}
    measures = {"rasteriser": rasteriser, "train": training_step, "loader": loader}
    for part in [args.part] if args.part else PARTS:
        numbers[part] = measures[part](numbers["limits"], args.repeats)
    print_table(numbers)
    text = json.dumps(numbers, indent=2)
    print(text)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")
    return EXIT_DONE


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """The median wall time of `action` [s] after one run that does not count."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def machine_limits(repeats: int) -> dict[str, float]:
    """What this machine reaches in matrix products [GFLOP/s] and in copies [GB/s]."""
    import torch

    limits = {}
    for name, dtype in (
        ("matmul_fp32_gflops", torch.float32),
        ("matmul_bf16_gflops", torch.bfloat16),
    ):
        a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
        limits[name] = 2 * 1024**3 / median_seconds(partial(torch.mm, a, b), repeats) / 1e9
    source = torch.zeros(32 << 20)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), repeats)
    limits["copy_gb_per_s"] = 2 * source.nbytes / seconds / 1e9
    return limits


def rasteriser(limits: dict[str, float], repeats: int) -> dict[str, dict[str, float]]:
    """Forward and forward + backward of the CPU rasteriser; the reference beside it at a small size."""
    rows = {}
    for name, size in {"reference_scene": REFERENCE_SIZE, **SIZES}.items():
        row: dict[str, float] = {}
        backends: tuple[Backend, ...] = ("cpu", "reference")
        for backend in backends if name == "reference_scene" else backends[:1]:
            forward, both = _render_seconds(size, backend, repeats)
            row |= {f"{backend}_forward_ms": forward * 1e3, f"{backend}_both_ms": both * 1e3}
        num_gaussians, height, width, views = size
        row["pixels_per_s"] = views * height * width / row["cpu_forward_ms"] * 1e3
        row["gaussians_per_s"] = views * num_gaussians / row["cpu_both_ms"] * 1e3
        # Reading every splat and writing every pixel once is the least that has to move.
        least = (views * num_gaussians * 14 + views * height * width * 5) * 4
        row["share_of_copy_limit"] = (
            least / (row["cpu_forward_ms"] / 1e3) / 1e9 / limits["copy_gb_per_s"]
        )
        if "reference_both_ms" in row:
            row["times_as_fast_as_reference"] = row["reference_both_ms"] / row["cpu_both_ms"]
        rows[name] = row
    return rows


def _render_seconds(
    size: tuple[int, int, int, int], backend: Backend, repeats: int
) -> tuple[float, float]:
    import torch

    from data.cameras import Cameras, intrinsics_from_fov
    from models.gaussians import Gaussians
    from models.rendering.render import render

    num_gaussians, height, width, views = size
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(num_gaussians, 3, generator=generator) * torch.tensor([2.4, 1.6, 1.5])
    means = means + torch.tensor([-1.2, -0.8, 0.7])
    scales = 0.004 + 0.01 * torch.rand(num_gaussians, 3, generator=generator)
    quats = torch.randn(num_gaussians, 4, generator=generator)
    opacities = 0.05 + 0.9 * torch.rand(num_gaussians, generator=generator)
    tensors = [means, quats, scales, opacities, torch.rand(num_gaussians, 3, generator=generator)]
    dtype = torch.float64 if backend == "reference" else torch.float32
    leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    transforms = torch.eye(4).repeat(views, 1, 1)
    transforms[:, 0, 3] = torch.linspace(-0.1, 0.1, views)
    intrinsics = intrinsics_from_fov(50.0, height, width).expand(views, 3, 3)
    cameras = Cameras(transforms, intrinsics, height, width).to(dtype)

    def forward() -> torch.Tensor:
        return render(Gaussians(*leaves), cameras, backend=backend).frames

    def both() -> None:
        forward().square().mean().backward()

    with torch.no_grad():
        seconds = median_seconds(forward, repeats)
    return seconds, median_seconds(both, repeats)


def _tiny_recipe(folder: Path, num_clips: int) -> Any:
    """The tiny reconstruction recipe over a few freshly made clips."""
    from configs.loader import load_config
    from data.procedural.clips import make_clip
    from data.procedural.config import SceneConfig
    from data.shard_writing import write_shards
    from train.tasks.registry import Recipe

    write_shards([make_clip(seed, SceneConfig()) for seed in range(num_clips)], folder)
    overrides = [
        f"task.data=[{folder}]",
        f"task.validation_data={folder}",
        "task.num_validation_clips=1",
        "task.num_workers=0",
    ]
    return load_config("configs/tiny/reconstruction.yaml", overrides, Recipe)


def training_step(limits: dict[str, float], repeats: int) -> dict[str, float]:
    """Seconds of a tiny training step's parts, and the share of the matmul peak that the whole reaches."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models.gaussians import Gaussians
    from train.engine import autocast
    from train.optimizer import create_optimizer
    from train.tasks.reconstruction import batch_cameras

    with tempfile.TemporaryDirectory() as folder:
        recipe = _tiny_recipe(Path(folder) / "shards", 8)
        task = recipe.task.create(0)
        model = task.build().train()
        optimizer = create_optimizer(model, recipe.optimizer)
        batches = iter(task.loader(rank=0, world_size=1, start=0))
        parts: dict[str, list[float]] = {}
        flops = 0
        for round_number in range(repeats + 1):
            marks = [time.perf_counter()]
            batch = next(batches)
            marks.append(time.perf_counter())
            inputs, targets = batch_cameras(batch, "input"), batch_cameras(batch, "target")
            counter = FlopCounterMode(display=False)
            with counter, autocast(torch.device("cpu"), recipe.engine.precision):
                with torch.no_grad():
                    latents = task.autoencoder.encode(batch["input_frames"])
                predicted = model(latents, inputs)
            marks.append(time.perf_counter())
            leaves = {n: x.detach().requires_grad_() for n, x in predicted.tensors().items()}
            drawn = task.render(Gaussians(**leaves), targets).frames
            (drawn - batch["target_frames"]).square().mean().backward()
            marks.append(time.perf_counter())
            gradients = [leaf.grad for leaf in leaves.values()]
            torch.autograd.backward(list(predicted.tensors().values()), gradients)
            marks.append(time.perf_counter())
            optimizer.step()
            optimizer.zero_grad()
            marks.append(time.perf_counter())
            # The backward pass costs twice the forward pass's products.
            flops = 3 * counter.get_total_flops()
            names = ("data", "model_forward", "render", "model_backward", "optimizer")
            if round_number:
                for name, first, last in zip(names, marks, marks[1:], strict=False):
                    parts.setdefault(name, []).append(last - first)
    seconds = {name: statistics.median(values) for name, values in parts.items()}
    whole = sum(seconds.values())
    model_seconds = seconds["model_forward"] + seconds["model_backward"]
    return {
        **{f"{name}_s": value for name, value in seconds.items()},
        "step_s": whole,
        "samples_per_s": recipe.task.batch_size / whole,
        "model_gflop": flops / 1e9,
        "model_share_of_bf16_peak": flops / model_seconds / 1e9 / limits["matmul_bf16_gflops"],
        "model_share_of_fp32_peak": flops / model_seconds / 1e9 / limits["matmul_fp32_gflops"],
    }


def loader(limits: dict[str, float], repeats: int) -> dict[str, float]:
    """Samples a second of one loading process, beside what a training step consumes."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = _tiny_recipe(Path(folder) / "shards", 16)
        batches = iter(recipe.task.create(0).loader(rank=0, world_size=1, start=0))
        seconds = median_seconds(lambda: next(batches), max(repeats, 5))
    loaded = recipe.task.batch_size / seconds
    consumed = training_step(limits, repeats)["samples_per_s"]
    return {
        "samples_per_s": loaded,
        "step_consumes_per_s": consumed,
        "times_what_a_step_consumes": loaded / consumed,
    }


def print_table(numbers: dict[str, Any]) -> None:
    """All numbers, one a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value")

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name} {key}".strip(), inner)
        else:
            table.add_row(name.replace("_", " "), f"{value:,.4g}")

    add("", numbers)
    Console().print(table)


if __name__ == "__main__":
    run_command(main)

"""A plan as tables for the terminal, and as numbers for machines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from train.planning.cluster import GIB
from train.planning.planner import Plan, Row
from train.planning.zero_memory import Memory

FILE_WIDTH = 120
"""Columns of what goes to a file or a pipe."""
HOUR = 3600.0
COLUMNS = {
    "weights": "weights", "frozen": "frozen", "average": "EMA", "states": "states", "gradients": "grads",
    "activations": "activ.", "buffers": "buffers", "batch": "batch",
}  # fmt: skip
"""Parts of a GPU's memory, and what their columns are called."""


def print_plan(plan: Plan) -> None:
    """Tables and the verdict, to the terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    setup, cluster = plan.setup, plan.cluster
    each = f"{setup.clips} clip{'s' if setup.clips > 1 else ''} each"
    if setup.parts > 1:
        each += f", {setup.parts} times a step"
    console.print(
        f"[bold]{plan.recipe.name}[/bold] on {_count(cluster.nodes, 'node')} of"
        f" {_count(cluster.gpus_per_node, 'GPU')} with {_gib(cluster.gpu_memory)}: {each}"
    )
    console.print(_modules(plan))
    console.print(_figures(plan))
    console.print(_memory(plan))
    for line in _verdict(plan):
        console.print(line, soft_wrap=True)


def plan_numbers(plan: Plan) -> dict[str, Any]:
    """All of a plan as plain values: bytes, seconds, FLOPs; names as in the code."""
    cluster, setup = plan.cluster, plan.setup
    return {
        "recipe": plan.recipe.name,
        "cluster": asdict(cluster) | {"gpus": cluster.gpus, "usable": cluster.usable},
        "setup": asdict(setup),
        "parameters": {"trained": plan.trained, "frozen": plan.frozen},
        "modules": [asdict(count) for count in plan.modules],
        "tokens": plan.tokens,
        "losses": list(plan.losses),
        "without_gradient": list(plan.without_gradient),
        "flops_per_step": plan.flops,
        "forward_flops_by_part": plan.flops_by_part,
        "held_at_peak": plan.held,
        "gaussian_views_per_step": plan.rendered,
        "seconds_per_step": plan.seconds,
        "seconds_in_all": plan.seconds * plan.recipe.loop.steps,
        "bytes_per_sample": plan.sample_bytes,
        "bytes_per_sample_are": plan.source,
        "bytes_read_per_second": _read_rate(plan),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "network_bytes_per_gpu_and_step": plan.network,
        "memory": _memory_numbers(plan.memory),
        "ways": [_row_numbers(row) for row in plan.rows],
        "fits": plan.fits,
        "changes_that_fit": [
            {"changes": list(change.words), "memory": _memory_numbers(change.memory)}
            for change in plan.changes
        ],
        "notes": list(plan.notes),
    }


def _modules(plan: Plan) -> Table:
    table = Table(title="parameters", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("module")
    for name in ("trained", "frozen"):
        table.add_column(name, justify="right")
    for count in plan.modules:
        table.add_row(count.name, _number(count.trained), _number(count.frozen))
    table.add_section()
    table.add_row("all", _number(plan.trained), _number(plan.frozen))
    return table


def _figures(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _lines(plan):
        table.add_row(label, text)
    return table


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """What is said of a step, each with its label; a second line of the same has none."""
    setup, cluster, loop = plan.setup, plan.cluster, plan.recipe.loop
    losses = ", ".join(name for name in plan.losses if name != "loss")
    yield "step", f"ran whole under fake tensors: forward, loss ({losses}), backward, optimizer"
    if plan.without_gradient:
        count, first = len(plan.without_gradient), plan.without_gradient[0]
        yield "", f"{_count(count, 'parameter')} got no gradient, the first is {first}"
    if plan.tokens:
        parts = " + ".join(f"{count:,} {kind}" for kind, count in plan.tokens.items())
        total_tokens = sum(plan.tokens.values()) * setup.clips_a_step
        yield "tokens", f"{total_tokens:,} a step; {parts} a clip"
    total = sum(plan.flops.values())
    yield "FLOPs", f"{_flops(total)} a step: {_flops_by_name(plan.flops)}"
    large = {name: value for name, value in plan.flops_by_part.items() if value > total / 1e3}
    yield "", f"of the forward pass: {_flops_by_name(large)}"
    hours = plan.seconds * loop.steps / HOUR
    least = "at least " if plan.rendered and cluster.splat_rate is None else ""
    speed = f"{cluster.utilisation:.0%} of {cluster.peak / 1e12:,.1f} TFLOP/s a GPU"
    yield "time", f"{least}{plan.seconds:.3g} s a step, at {speed}"
    if setup.offload != "none":
        yield (
            "",
            "what is offloaded takes longer: the host's AdamW and the way there are not counted",
        )
    gpu_hours = f"{hours * cluster.gpus:,.1f} GPU hours"
    yield "", f"{least}{_duration(hours)} for {loop.steps:,} steps, {gpu_hours}"
    if plan.rendered:
        rate = cluster.splat_rate
        known = "not counted" if rate is None else f"counted at {rate:,.3g} a second"
        splats = plan.rendered / setup.clips_a_step
        yield "", f"drawing {splats:,.0f} splats a clip (Gaussians times views) is {known}"
    yield (
        "data",
        f"{_read_rate(plan) / 1e6:,.1f} MB/s in all; {plan.sample_bytes / 1e6:,.2f} MB a clip,",
    )
    yield "", plan.source
    kept = f"{_gib(plan.checkpoint_bytes * loop.keep_checkpoints)} for the {loop.keep_checkpoints} that are kept"
    yield "checkpoint", f"{_gib(plan.checkpoint_bytes)}; {kept}"
    if setup.gpus > 1:
        yield "network", f"each GPU sends {_gib(plan.network)} a step, whose time is not counted"
    for note in plan.notes:
        yield "note", note


def _flops_by_name(flops: dict[str, float]) -> str:
    return ", ".join(f"{name} {_flops(value)}" for name, value in flops.items() if value)


def _memory(plan: Plan) -> Table:
    small = max(row.memory.total for row in plan.rows) < GIB
    unit, name = (2**20, "MiB") if small else (GIB, "GiB")
    table = Table(
        title=f"memory of a GPU at its fullest [{name}]",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("ZeRO", no_wrap=True)
    table.add_column("checkpointing", no_wrap=True)
    shown = [p for p in COLUMNS if any(getattr(row.memory, p) for row in plan.rows)]
    for header in (*(COLUMNS[part] for part in shown), "in all", "fits"):
        table.add_column(header, justify="right", no_wrap=True)
    offload = any(row.offloaded for row in plan.rows)
    if offload:
        table.add_column("offloaded", justify="right", no_wrap=True)
        table.add_column("host", justify="right", no_wrap=True)
    for row in plan.rows:
        current = (row.stage, row.checkpointing) == (plan.setup.stage, plan.setup.checkpointing)
        switch = {None: "", True: "on", False: "off"}[row.checkpointing]
        sizes: list[float] = [getattr(row.memory, part) for part in shown]
        cells = [f"{size / unit:,.1f}" for size in (*sizes, row.memory.total)]
        cells.append("yes" if row.memory.total <= plan.cluster.usable else "no")
        if row.offloaded is not None:
            host = row.offloaded.host * plan.cluster.gpus_per_node
            cells += [f"{size / unit:,.1f}" for size in (row.offloaded.total, host)]
        mark = " *" if current else ""
        table.add_row(f"{row.stage}{mark}", switch, *cells, style="bold" if current else None)
    caption = "* the recipe as it is"
    if plan.setup.offload != "none":
        caption += f", but for engine.offload={plan.setup.offload}"
    if offload:
        caption += (
            "; offloaded: in all with engine.offload=optimizer, and host memory of a node for it"
        )
    table.caption, table.caption_justify = caption, "left"
    return table


def _verdict(plan: Plan) -> Iterator[str]:
    cluster, total = plan.cluster, plan.memory.total
    room = f"{_gib(total)} of {_gib(cluster.usable)} (the GPU's {_gib(cluster.gpu_memory)} less {cluster.reserve:.0%})"
    held = sorted(plan.held.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in held if size > 0.01 * total)
    yield f"at their peak the passes hold: {parts or 'next to nothing'}"
    if plan.fits:
        yield f"[bold]fits[/bold]: {room}"
        return
    yield f"[bold]does not fit[/bold]: {room}"
    if plan.changes:
        yield "it would with:"
        for change in plan.changes:
            yield f"  {' '.join(change.words)}: {_gib(change.memory.total)}"
    needed = math.ceil(total / (1 - cluster.reserve) / GIB)
    yield f"as it is, it needs GPUs of {needed} GiB"


def _memory_numbers(memory: Memory) -> dict[str, int]:
    return asdict(memory) | {"total": memory.total}


def _row_numbers(row: Row) -> dict[str, Any]:
    return {
        "zero_stage": row.stage,
        "checkpointing": row.checkpointing,
        "memory": _memory_numbers(row.memory),
        "offloaded": None if row.offloaded is None else _memory_numbers(row.offloaded),
    }


def _read_rate(plan: Plan) -> float:
    return plan.sample_bytes * plan.setup.clips_a_step / plan.seconds


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def _gib(size: int | float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:,.1f} MiB"


def _flops(value: float) -> str:
    for power, unit in ((15, "PFLOP"), (12, "TFLOP"), (9, "GFLOP"), (6, "MFLOP")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g} FLOP"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"

"""What to say where memory runs out: how much was used, and what of a recipe would lower it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from configs.errors import UserError
from models.peak_memory import peak_memory_bytes
from models.perceptual import FRAMES_AT_ONCE
from train.config import RunConfig
from train.ranks import Ranks
from train.run_folder import flatten, may_change

CPU_SIGNS = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
GIB = 2**30
NUM_SUGGESTIONS = 3


@contextmanager
def out_of_memory_explained(config: RunConfig, ranks: Ranks) -> Iterator[None]:
    """Turns running out of memory into a UserError with the peak and what to change in this recipe."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(explanation(error, config, ranks)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python's or PyTorch's says that memory has run out, of a GPU or the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in CPU_SIGNS)


def explanation(error: BaseException, config: RunConfig, ranks: Ranks) -> str:
    """The message: what was asked for, the peak, three changes, and what is whole."""
    asked = re.search(r"allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)", str(error))
    text = f"rank {ranks.rank} is out of memory"
    if asked:
        text += f" (it asked for {asked[1]} more)"
    listed = "; ".join(suggestions(config, ranks)[:NUM_SUGGESTIONS])
    return (
        f"{text}; the peak was {peak_memory(ranks.device)}. What lowers it in this recipe: {listed}."
        " `./launch.sh plan` tells by how much. Nothing half-written was left, and checkpoints are as they were"
    )


def peak_memory(device: torch.device) -> str:
    """The most memory that this process had, in words."""
    most = peak_memory_bytes(device) / GIB
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory / GIB
        return f"{most:.2f} GiB of the GPU's {whole:.2f} GiB"
    return f"{most:.2f} GiB of host memory"


def suggestions(config: RunConfig, ranks: Ranks) -> list[str]:
    """Changes to this recipe that save memory, as `key=value`: first those that a resumed run may take."""
    found = list(_changes(flatten(config.model_dump(mode="json")), ranks))
    free = [text for keys, text in found if all(may_change(config, key) for key in keys)]
    bound = [text for keys, text in found if not all(may_change(config, key) for key in keys)]
    free = [f"{text} with resume=auto" for text in free]
    return [
        *free,
        *(f"{text} in a new run" for text in bound),
        "a machine with more memory",
        "frames of a smaller size (prepare --size)",
        "a smaller model",
    ]


def _changes(leaves: Mapping[str, Any], ranks: Ranks) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys that each change sets, and what to write for it; the cheapest in time first."""
    for key, value in leaves.items():
        if key.endswith("gradient_checkpointing") and value is False:
            yield (key,), f"{key}=true"
    for key, value in leaves.items():
        weight = leaves.get(key.removesuffix("_at_once"))
        if key.endswith("perceptual_at_once") and value is None and weight:
            yield (key,), f"{key}={FRAMES_AT_ONCE}"
    if leaves["engine.precision"] == "fp32":
        yield ("engine.precision",), "engine.precision=bf16"
    stage = leaves["engine.zero_stage"]
    if ranks.world_size > 1 and stage < 3:
        yield ("engine.zero_stage",), f"engine.zero_stage={stage + 1}"
    on_gpu, kept = ranks.device.type == "cuda", leaves["engine.offload"] == "none"
    if on_gpu and kept and stage and leaves["engine.kind"] != "plain":
        yield ("engine.offload",), "engine.offload=optimizer"
    size, parts = leaves.get("task.batch_size"), leaves["loop.accumulate"]
    if isinstance(size, int) and size % (2 * ranks.world_size) == 0:
        text = f"task.batch_size={size // 2} loop.accumulate={2 * parts}"
        yield ("task.batch_size", "loop.accumulate"), text
        yield (
            (),
            f"twice as many processes ({2 * ranks.world_size}), each with half of the samples,",
        )
    if leaves["loop.ema_decay"] is not None:
        yield ("loop.ema_decay",), "loop.ema_decay=null"
    if ranks.device.type == "cpu" and leaves.get("task.num_workers", 0) > 1:
        yield ("task.num_workers",), "task.num_workers=1"

"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """On `device` if it is a GPU, else in main memory; None stands for the GPU where this process has used one."""
    if device is None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        device = torch.device("cuda")
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

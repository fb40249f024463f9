"""Which device a command computes on."""

from __future__ import annotations

import torch

from configs.errors import UserError


def device_of(name: str | None) -> torch.device:
    """The device that --device names; None: a GPU where there is one. Raises UserError where it is not there."""
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device is {name!r}, expected cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not has_gpu:
        raise UserError(f"--device is {name!r}, but PyTorch finds no CUDA GPU here; use cpu")
    return device

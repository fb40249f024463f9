"""Where mixed precision must not reach."""

from __future__ import annotations

import contextlib

import torch


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Turns autocast off: camera geometry and activations of Gaussians need float32.

    The meta device has no autocast, so there is nothing to turn off.
    """
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)

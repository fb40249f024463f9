"""The device of one of several processes that share a machine."""

from __future__ import annotations

import torch

from data.work_share import WorkShare
from models.device_choice import device_of


def share_device(name: str | None, share: WorkShare) -> torch.device:
    """The device of that name; for "cuda", the process's own GPU of those that it can see.

    Raises UserError as `device_of` does.
    """
    device = device_of(name)
    if device.type != "cuda":
        return device
    num_visible = torch.cuda.device_count()
    return torch.device("cuda", share.local_rank % num_visible) if device.index is None else device

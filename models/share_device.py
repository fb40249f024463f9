"""The device of one of several processes that share a machine."""

from __future__ import annotations

import torch

from configs.errors import UserError
from data.work_share import WorkShare


def share_device(name: str, share: WorkShare) -> torch.device:
    """The device of that name; for "cuda", the process's own GPU of those that it can see.

    Raises UserError where there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device is {name!r}, expected cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    num_visible = torch.cuda.device_count()
    if num_visible == 0:
        raise UserError(f"--device is {name!r}, but PyTorch finds no CUDA GPU here; use cpu")
    return torch.device("cuda", share.local_rank % num_visible) if device.index is None else device

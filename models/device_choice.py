"""Which device a command computes on."""

from __future__ import annotations

import re

import torch

from configs.errors import UserError


def device_of(name: str | None, option: str = "--device") -> torch.device:
    """The device that `option` names: cpu, cuda or cuda:N; None: a GPU where there is one, else the CPU.

    Raises UserError for any other name, and for a GPU that is not there.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if num_gpus else "cpu")
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if found is None:
        raise UserError(f"{option} is {name!r}, expected cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    if num_gpus == 0:
        raise UserError(f"{option} is {name!r}, but PyTorch finds no CUDA GPU here; use cpu")
    if found[1] is None:
        return torch.device("cuda")
    if int(found[1]) >= num_gpus:
        there = "only cuda:0" if num_gpus == 1 else f"cuda:0 to cuda:{num_gpus - 1}"
        raise UserError(f"{option} is {name!r}, but PyTorch finds {there} here")
    return torch.device("cuda", int(found[1]))

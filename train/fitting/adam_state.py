"""Adam's moments of one parameter, by name, for runs that are continued."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PREFIX = "adam."


def save_adam(adam: torch.optim.Adam, parameter: nn.Parameter) -> dict[str, Tensor]:
    """The moments and the count of steps; nothing before the first step."""
    return {f"{PREFIX}{name}": value for name, value in adam.state.get(parameter, {}).items()}


def load_adam(adam: torch.optim.Adam, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
    """Puts back what `save_adam` told, of the same parameter or of one that takes its place; the rest is ignored."""
    moments = {
        # Adam counts its steps on the CPU.
        name.removeprefix(PREFIX): value.to(parameter.device if value.ndim else "cpu", copy=True)
        for name, value in state.items()
        if name.startswith(PREFIX)
    }
    adam.state.clear()
    if moments:
        adam.state[parameter] = moments
    adam.param_groups[0]["params"] = [parameter]

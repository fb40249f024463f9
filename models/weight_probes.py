"""A few of a model's weights, kept in a file, by which that very model is known again."""

from __future__ import annotations

import torch
from torch import Tensor

from models.fake_tensors import has_values

NUM_PROBES = 16
TOLERANCE = 0.02
"""As a share of the largest probe: four times what rounding to bfloat16 does."""

Probes = tuple[float, ...]


def probes_of(weight: Tensor) -> Probes | None:
    """Values from all over a tensor; None where it has no values (meta, fake tensors)."""
    if not has_values(weight):
        return None
    values = weight.detach().flatten()
    places = torch.linspace(0, len(values) - 1, NUM_PROBES).long()
    return tuple(float(value) for value in values[places.to(values.device)].float().cpu())


def differ(first: Probes | None, second: Probes | None) -> bool:
    """Whether two tensors' probes are those of different models. Where one is not known, nothing is told."""
    if first is None or second is None:
        return False
    ours, theirs = torch.tensor(first), torch.tensor(second)
    return bool((ours - theirs).abs().max() > TOLERANCE * ours.abs().max())

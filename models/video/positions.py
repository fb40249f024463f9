"""Rotary position embeddings of CogVideoX for latents of any size."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.torchvision_compat import mend_torchvision


def rotary_embedding(
    config: Any, num_latent_frames: int, height: int, width: int, device: torch.device
) -> tuple[Float[Tensor, "l d"], Float[Tensor, "l d"]]:
    """Cosines and sines for tokens of `height` x `width` latents, as the stock pipeline gives them.

    config: the transformer's. Positions run over the grid that the model was trained on: a grid of another
    shape is scaled to fit into it, centred.
    """
    mend_torchvision()
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    patch = config.patch_size
    trained = (config.sample_height // patch, config.sample_width // patch)
    grid = (height // patch, width // patch)
    return get_3d_rotary_pos_embed(
        config.attention_head_dim, _region(grid, trained), grid, num_latent_frames, device=device
    )


def _region(
    grid: tuple[int, int], trained: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top-left and bottom-right corner, in the trained grid, of the largest centred box of `grid`'s shape."""
    if grid[0] * trained[1] > grid[1] * trained[0]:
        size = (trained[0], round(trained[0] / grid[0] * grid[1]))
    else:
        size = (round(trained[1] / grid[1] * grid[0]), trained[1])
    top, left = (round((outer - inner) / 2) for outer, inner in zip(trained, size, strict=True))
    return (top, left), (top + size[0], left + size[1])

"""The ControlNet branch: trainable copies of the base's first blocks that see the cameras.

Wonderland, sec. 3.2. Legend: b batch, n text tokens, l visual tokens, d token width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.video.camera_encoder import CameraEncoder


class ControlBranch(nn.Module):
    """Runs the copied blocks on visual tokens plus camera tokens; each gives the original's residual.

    The camera tokens come in through a zero-initialised linear map and every residual leaves through one, so a
    new branch changes nothing.
    """

    def __init__(self, encoder: CameraEncoder, blocks: nn.ModuleList, token_width: int) -> None:
        """blocks: the base's, which are copied with their weights, in float32."""
        super().__init__()
        self.encoder = encoder
        self.entry = zero_linear(token_width, bias=True)
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in blocks)
        self.blocks.requires_grad_(True)
        if any(parameter.dtype != torch.float32 for parameter in self.blocks.parameters()):
            self.blocks.float()
        self.exits = nn.ModuleList(zero_linear(token_width, bias=True) for _ in blocks)

    def encode(self, rays: Float[Tensor, "b t 6 h w"]) -> Float[Tensor, "b l d"]:
        """What is added to the visual tokens."""
        return self.entry(self.encoder(rays))

    def forward(
        self,
        visual: Float[Tensor, "b l d"],
        text: Float[Tensor, "b n d"],
        cameras: Float[Tensor, "b l d"],
        run_block: Callable[[nn.Module, Tensor, Tensor], Any],
    ) -> list[Tensor]:
        """One residual `[b l d]` per block. run_block calls a block as the base calls its own."""
        visual = visual + cameras
        residuals = []
        for block, leave in zip(self.blocks, self.exits, strict=True):
            visual, text = run_block(block, visual, text)
            residuals.append(leave(visual))
        return residuals


def zero_linear(width: int, *, bias: bool) -> nn.Linear:
    """A square linear map that starts at zero."""
    linear = nn.Linear(width, width, bias=bias)
    nn.init.zeros_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear

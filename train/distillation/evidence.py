"""The pictures that a scene came from: what a refinement is tied to, and what it is judged by.

Part of them is held out. What no step has looked at tells whether a refined scene is better, or only closer to what
it was shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.render import render
from train.randomness import derive_seed

LEAST_LIKENESS = 0.6
"""The scene's picture from the input view correlates at least so much with the scene's own input; pictures of different
procedural scenes do by 0.12 on average, and by 0.58 at most among the pairs of 14."""
COARSE_ROWS = 12
"""Likeness is told on pictures this high, so that what is sharp in one of them does not count."""
MSE_FLOOR = 1e-8


class EvidenceConfig(Config):
    """What is held out."""

    block_px: int = Field(8, gt=0, description="side of the input's squares that are held out")
    blocks_every: int = Field(
        6, gt=1, description="one of so many squares of the input is held out"
    )
    frames_every: int = Field(4, gt=1, description="and one of so many frames, where there are any")


@dataclass(frozen=True)
class Evidence:
    """Pictures with their cameras, the input first.

    shown: the pixels that steps look at; the others judge.
    """

    frames: Float[Tensor, "v 3 h w"]
    cameras: Cameras
    shown: Bool[Tensor, "v h w"]

    @property
    def shown_frames(self) -> list[int]:
        """The frames after the input that steps look at."""
        return [view for view in range(1, len(self.frames)) if bool(self.shown[view].any())]

    def to(self, device: torch.device) -> Evidence:
        return Evidence(self.frames.to(device), self.cameras.to(device), self.shown.to(device))


def gather_evidence(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: EvidenceConfig,
    seed: int,
    judge_only: bool = False,
) -> Evidence:
    """Squares of the input, drawn by the seed, and every so-manieth other frame are held out.

    judge_only: all other frames are.
    """
    num_frames, _, height, width = frames.shape
    rows, columns = -(-height // config.block_px), -(-width // config.block_px)
    generator = torch.Generator().manual_seed(derive_seed("evidence", seed))
    order = torch.randperm(rows * columns, generator=generator)
    held = torch.zeros(rows * columns, dtype=torch.bool)
    held[order[: max(1, rows * columns // config.blocks_every)]] = True
    squares = held.view(rows, columns).repeat_interleave(config.block_px, 0)
    squares = squares.repeat_interleave(config.block_px, 1)[:height, :width]
    shown = torch.ones(num_frames, height, width, dtype=torch.bool)
    shown[0] = ~squares
    others = range(1, num_frames)[config.frames_every // 2 :: config.frames_every]
    shown[list(range(1, num_frames) if judge_only else others)] = False
    return Evidence(frames, cameras, shown)


@torch.no_grad()
def held_out_psnr(scene: Gaussians, evidence: Evidence, background: float) -> float:
    """How well a scene shows what is held out [dB]; see `psnr_of_held_out`."""
    behind = scene.means.new_full((3,), background)
    drawn = render(scene, evidence.cameras, background=behind).frames.clamp(0, 1)
    return psnr_of_held_out(drawn, evidence)


def psnr_of_held_out(drawn: Float[Tensor, "v 3 h w"], evidence: Evidence) -> float:
    """PSNR [dB] of what is held out of the input and of the other frames, which count the same.

    drawn: what the evidence's cameras see of a scene.
    """
    squares, held = (drawn - evidence.frames).square().mean(dim=1), ~evidence.shown
    parts = [
        squares[views][held[views]].mean()
        for views in (slice(0, 1), slice(1, None))
        if bool(held[views].any())
    ]
    return float(-10 * torch.stack(parts).mean().clamp_min(MSE_FLOOR).log10())


def check_input(
    scene: Gaussians, evidence: Evidence, background: float, image: str, file: str
) -> None:
    """Raises UserError where the first picture is not what the scene was made from."""
    found = likeness(scene, evidence, background)
    if not found >= LEAST_LIKENESS:
        raise UserError(
            f"{image} is not what {file} was made from: the scene seen from its first camera has a likeness of"
            f" {found:.2f} to it, expected at least {LEAST_LIKENESS}; give the image that the scene came from"
        )


@torch.no_grad()
def likeness(scene: Gaussians, evidence: Evidence, background: float) -> float:
    """Correlation of the input with the scene's picture of it, both coarse, over pixels and channels."""
    behind = scene.means.new_full((3,), background)
    drawn = render(scene, evidence.cameras.select(0), background=behind).frames
    columns = max(2, round(COARSE_ROWS * evidence.cameras.width / evidence.cameras.height))
    pair = torch.cat([drawn, evidence.frames[:1]])
    small = torch.nn.functional.interpolate(pair, (COARSE_ROWS, columns), mode="area").flatten(2)
    centred = (small - small.mean(dim=-1, keepdim=True)).flatten(1)
    one, other = torch.nn.functional.normalize(centred, dim=-1)
    return float(one @ other)

"""Clips made worse, or merely different, in known amounts: what a consistency score is tried on.

Four families:

- inconsistent: frames stop showing one scene (shifted, warped, objects swapped, colours flickering);
- input: the frames go on showing one scene, but the input view does not belong to it;
- consistent: frames show one scene as before, though another one than the truth (rescaled, recoloured, mirrored);
- easy: frames become easier to predict without becoming more consistent (blurred, standing still).

The input view is a clip's first frame. Of one clip, kind and seed all strengths share one random draw, which is
only scaled: so a stronger one is worse, and not merely worse on average. Lengths are shares of the frames' width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from data.clips import Clip
from train.randomness import derive_seed

Family = Literal["inconsistent", "input", "consistent", "easy"]
Change = Callable[[Clip, float, torch.Generator], Clip]

WARP_CELLS = (3, 4)
"""A warp is smooth: its displacements are drawn on a grid of so many cells down and across."""
SWAP_PAIRS = 2
"""So many pairs of places change their content in a frame."""


@dataclass(frozen=True)
class Perturbation:
    """A way to change a clip, in five strengths (a mirror knows only one).

    strengths: from weakest to strongest; unit: what they count.
    """

    family: Family
    change: Change
    strengths: tuple[float, ...]
    unit: str
    description: str


def perturb(clip: Clip, name: str, level: int, seed: int = 0) -> Clip:
    """The clip changed by the perturbation `name` at `level`, 1 (weakest) to 5 (strongest); 0 gives it back as it is.

    A function of its arguments alone. Raises UserError for a name or a level that there is not, and for a clip
    of one frame, which has nothing but its input view.
    """
    perturbation = PERTURBATIONS.get(name)
    if perturbation is None:
        raise UserError(f"no perturbation {name!r}; there are {', '.join(PERTURBATIONS)}")
    if not 0 <= level <= len(perturbation.strengths):
        raise UserError(f"{name}: level {level}, expected 0 to {len(perturbation.strengths)}")
    if clip.num_frames < 2:
        raise UserError(f"{clip.source}: one frame has nothing to perturb; expected 2 or more")
    if level == 0:
        return clip
    generator = torch.Generator().manual_seed(derive_seed("perturb", seed, clip.source, name))
    return perturbation.change(clip, perturbation.strengths[level - 1], generator)


def shift_frames(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """Every frame but the input moved as a whole, each its own way; RMS over frames is `strength` widths."""
    moves = torch.randn(clip.num_frames - 1, 2, 1, 1, generator=generator)
    return _with_others(clip, displace(clip.frames[1:], _scaled(moves, clip, strength)))


def warp_frames(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """Every frame but the input bent smoothly, each its own way; RMS displacement is `strength` widths."""
    grid = (clip.num_frames - 1, 2, WARP_CELLS[0] + 1, WARP_CELLS[1] + 1)
    moves = torch.randn(grid, generator=generator)
    size = clip.frames.shape[-2:]
    smooth = F.interpolate(moves, size, mode="bicubic", align_corners=True)
    return _with_others(clip, displace(clip.frames[1:], _scaled(smooth, clip, strength)))


def swap_objects(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """In every frame but the input, discs at random places change their contents in pairs.

    The places are each frame's own. strength: the area of all discs together, as a share of the frame.
    """
    others = clip.frames[1:]
    num_frames, _, height, width = others.shape
    radius = (strength * height * width / (2 * SWAP_PAIRS * torch.pi)) ** 0.5
    places = torch.rand(num_frames, SWAP_PAIRS, 2, 2, generator=generator)
    size = torch.tensor([width, height])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    swapped = others.clone()
    for frame, pairs in enumerate(places):
        for pair in pairs:
            # Discs stay within the frame as far as they fit into it.
            room = (size - 2 * radius).clamp_min(0)
            (ax, ay), (bx, by) = ((size - room) / 2 + pair * room).round().long().tolist()
            for (x, y), (there_x, there_y) in (((ax, ay), (bx, by)), ((bx, by), (ax, ay))):
                disc = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2
                source_rows = (rows + there_y - y).clamp(0, height - 1)[disc]
                source_columns = (columns + there_x - x).clamp(0, width - 1)[disc]
                swapped[frame][:, disc] = others[frame][:, source_rows, source_columns]
    return _with_others(clip, swapped)


def flicker(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """Every frame but the input with its own tone curve x^g a channel; `strength` is the RMS of log g."""
    curves = _normalised(torch.randn(clip.num_frames - 1, 3, 1, 1, generator=generator))
    return _with_others(clip, tone(clip.frames[1:], strength * curves))


def shift_input(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """The input view alone moved, by `strength` widths in a random direction."""
    move = torch.randn(1, 2, 1, 1, generator=generator)
    return _with_input(clip, displace(clip.frames[:1], _scaled(move, clip, strength)))


def recolour_input(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """The input view alone with another tone curve x^g a channel; `strength` is the RMS of log g."""
    curves = _normalised(torch.randn(1, 3, 1, 1, generator=generator))
    return _with_input(clip, tone(clip.frames[:1], strength * curves))


def rescale(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """The whole scene `strength` times as large, with the cameras' path: the frames stay as they are."""
    depth = None if clip.depth is None else clip.depth * strength
    return replace(clip, cameras=clip.cameras.rescaled(1 / strength), depth=depth)


def recolour(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """The whole scene in other colours, the input view with it: channels mixed and one tone curve for all.

    strength: 0 to 1, the share of a third of a turn around the grey axis; tone curves have log g of RMS 0.3
    times it.
    """
    third = torch.tensor(2 * torch.pi / 3) * strength
    diagonal, near, far = ((1 + 2 * torch.cos(third + k * 2 * torch.pi / 3)) / 3 for k in (0, 1, 2))
    turn = torch.stack([diagonal, near, far, far, diagonal, near, near, far, diagonal]).view(3, 3)
    mixed = torch.einsum("ij,tjhw->tihw", turn.to(clip.frames), clip.frames).clamp(0, 1)
    curves = _normalised(torch.randn(1, 3, 1, 1, generator=generator))
    return replace(clip, frames=tone(mixed, 0.3 * strength * curves))


def mirror(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """The whole scene in a mirror, cameras with it."""
    return clip.mirrored()


def blur(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """Every frame but the input blurred by a Gaussian of `strength` widths."""
    deviation = strength * clip.cameras.width
    radius = max(1, round(3 * deviation))
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum()).to(clip.frames)
    blurred = clip.frames[1:]
    for axis in (-1, -2):
        # Borders repeat: a frame may be smaller than the kernel.
        places = torch.arange(blurred.shape[axis])[:, None] + offsets
        taken = blurred.movedim(axis, -1)[..., places.clamp(0, blurred.shape[axis] - 1)]
        blurred = (taken @ kernel).movedim(-1, axis)
    return _with_others(clip, blurred)


def stand_still(clip: Clip, strength: float, generator: torch.Generator) -> Clip:
    """Every frame is the input view with a share of `strength`, and itself with the rest."""
    still = clip.frames[:1].expand_as(clip.frames[1:])
    return _with_others(clip, torch.lerp(clip.frames[1:], still, strength))


def displace(
    frames: Float[Tensor, "t 3 h w"], moves: Float[Tensor, "t 2 #h #w"]
) -> Float[Tensor, "t 3 h w"]:
    """Frames whose pixels are looked up `moves` (x, y) pixels away; bicubic, borders reflected.

    Bicubic, since an interpolation that blurs would make frames easier to predict while making them wrong.
    """
    num_frames, _, height, width = frames.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([x, y]) + moves
    grid = 2 * places / torch.tensor([width, height])[:, None, None] - 1
    return F.grid_sample(
        frames,
        grid.movedim(1, -1).to(frames).expand(num_frames, height, width, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    ).clamp(0, 1)


def tone(
    frames: Float[Tensor, "t 3 h w"], log_gamma: Float[Tensor, "#t 3 1 1"]
) -> Float[Tensor, "t 3 h w"]:
    """Frames through x^g: other colours, of which none leaves [0, 1]."""
    return frames.clamp(0, 1) ** log_gamma.exp().to(frames)


def _normalised(draw: Tensor) -> Tensor:
    """The draw with a root mean square of 1."""
    return draw / draw.square().mean().sqrt()


def _scaled(moves: Float[Tensor, "t 2 #h #w"], clip: Clip, strength: float) -> Tensor:
    """Moves in pixels whose lengths have a root mean square of `strength` widths."""
    return moves * (strength * clip.cameras.width / moves.square().sum(1).mean().sqrt())


def _with_others(clip: Clip, others: Float[Tensor, "t 3 h w"]) -> Clip:
    return replace(clip, frames=torch.cat([clip.frames[:1], others]))


def _with_input(clip: Clip, view: Float[Tensor, "1 3 h w"]) -> Clip:
    return replace(clip, frames=torch.cat([view, clip.frames[1:]]))


LENGTHS = (0.004, 0.008, 0.016, 0.032, 0.064)
TONES = (0.04, 0.08, 0.16, 0.32, 0.64)

PERTURBATIONS: dict[str, Perturbation] = {
    "shift": Perturbation("inconsistent", shift_frames, LENGTHS, "widths", "each frame moved"),
    "warp": Perturbation("inconsistent", warp_frames, LENGTHS, "widths", "each frame bent"),
    "swap": Perturbation(
        "inconsistent", swap_objects, (0.02, 0.04, 0.08, 0.16, 0.32), "area", "objects swapped"
    ),
    "flicker": Perturbation("inconsistent", flicker, TONES, "log gamma", "colours flicker"),
    "input_shift": Perturbation("input", shift_input, LENGTHS, "widths", "the input moved"),
    "input_colour": Perturbation(
        "input", recolour_input, TONES, "log gamma", "the input in other colours"
    ),
    "rescaled": Perturbation(
        "consistent", rescale, (0.5, 2.0, 0.1, 10.0, 1000.0), "times", "rescaled"
    ),
    "recoloured": Perturbation(
        "consistent", recolour, (0.2, 0.4, 0.6, 0.8, 1.0), "share", "recoloured"
    ),
    "mirrored": Perturbation("consistent", mirror, (1.0,), "", "in a mirror"),
    "blurred": Perturbation("easy", blur, LENGTHS, "widths", "blurred"),
    "still": Perturbation(
        "easy", stand_still, (0.2, 0.4, 0.6, 0.8, 1.0), "share", "standing still"
    ),
}
"""By name. Strengths double from one to the next where a perturbation has a size."""

"""One step of direct alignment: normal equations of poses and inverse depths, and their solution.

A pose moves by a twist (v, w) in its own axes, world_to_camera <- exp(v, w) world_to_camera; the first one stays.
Every pixel has its own inverse depth, so depths are eliminated pixel by pixel (Schur complement), as in bundle
adjustment. Residuals are weighed by a Student-t distribution (Kerl et al. 2013), which lets go of what is hidden
in one of the frames.

Legend: t frames, k keyframes, n pixels of each, p pairs of a keyframe with another frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from data.cameras import skew
from train.alignment.pixels import AlignmentState, LookUp, PixelPairs

FREEDOM = 5.0
"""Degrees of freedom of the Student-t distribution."""
LARGEST_DEPTH_STEP = 0.3
INVERSE_DEPTH_LIMITS = (0.02, 10.0)
"""In units in which the scene's median depth is about 1."""
ALMOST_ZERO = 1e-12
EXPOSURE_PRIOR = (0.2, 0.1)
"""Standard deviations of gain about 1 and of bias about 0; they keep frames from fading to one colour."""


@dataclass(frozen=True)
class DepthPrior:
    """Where inverse depths should be, and how strictly (standard deviation)."""

    mean: Float[Tensor, "k n"]
    deviation: float


@dataclass(frozen=True)
class CalmPrior:
    """Cameras turn little from one frame to the next: standard deviation [rad].

    Only where nothing better is known. Turning and moving sideways at once, so that they all but cancel, changes
    a picture so little that steps from nothing run away that way.
    """

    deviation: float

    def turns(self, state: AlignmentState) -> Float[Tensor, "turn 3"]:
        """Rotation vectors from each frame to the next."""
        rotation = state.world_to_camera[:, :3, :3]
        between = (rotation[1:] @ rotation[:-1].mT).cpu().numpy()
        return torch.from_numpy(Rotation.from_matrix(between).as_rotvec())

    def misfit(self, state: AlignmentState) -> float:
        return float(0.5 * self.turns(state).square().sum()) / self.deviation**2

    def added_to(self, equations: NormalEquations, state: AlignmentState) -> NormalEquations:
        """The equations with the prior's, to first order in the turns."""
        turns = self.turns(state)
        count = len(turns)
        differences = torch.eye(count, dtype=torch.float64) - torch.eye(
            count, dtype=torch.float64
        ).roll(-1, dims=1).tril(-1)
        spread = turns.new_zeros(count, 3, count, 6)
        for axis in range(3):
            spread[:, axis, :, 3 + axis] = differences
        jacobian = spread.reshape(3 * count, 6 * count) / self.deviation
        return replace(
            equations,
            poses=equations.poses + jacobian.T @ jacobian,
            pose_slopes=equations.pose_slopes + jacobian.T @ turns.flatten() / self.deviation,
        )


@dataclass(frozen=True)
class NormalEquations:
    """Second derivatives and slopes of the misfit, in units of its variance.

    poses: of the twists of all frames but the first. cross: between those and each pixel's inverse depth.
    depths, depth_slopes: of each pixel's inverse depth, its prior left out.
    """

    poses: Float[Tensor, "free free"]
    pose_slopes: Float[Tensor, " free"]
    cross: Float[Tensor, "k n free"]
    depths: Float[Tensor, "k n"]
    depth_slopes: Float[Tensor, "k n"]


def robust_scale(pixels: PixelPairs, state: AlignmentState, floor: float = 2e-3) -> float:
    """The residuals' standard deviation, told from their median."""
    look = pixels.look_up(state)
    size = pixels.residuals(look, state).square().mean(dim=1).sqrt()
    seen = size[look.seen]
    return floor + (1.4826 * float(seen.median()) if len(seen) else 0.0)


def misfit(
    pixels: PixelPairs,
    state: AlignmentState,
    prior: DepthPrior,
    scale: float,
    calm: CalmPrior | None = None,
) -> float:
    """What a step has to lower: minus the log likelihood of residuals, depths and turns, a pixel on average.

    A pixel that falls out of a frame counts like the median of those that do not, so that there is nothing to
    gain from looking away.
    """
    look = pixels.look_up(state)
    squares = pixels.residuals(look, state).square().sum(dim=1) / scale**2
    losses = (3 + FREEDOM) / 2 * torch.log1p(squares / FREEDOM)
    seen = losses[look.seen]
    if not len(seen):
        return float("inf")
    hidden = losses.numel() - len(seen)
    total = seen.sum(dtype=torch.float64) + hidden * seen.median()
    off = (state.inverse_depth - prior.mean) / prior.deviation
    total = total + 0.5 * off.square().sum(dtype=torch.float64)
    return (float(total) + (calm.misfit(state) if calm else 0.0)) / losses.numel()


def normal_equations(
    pixels: PixelPairs, state: AlignmentState, look: LookUp, scale: float
) -> NormalEquations:
    """The Gauss-Newton equations at a state whose pixels have been looked up."""
    return _gathered(pixels, *_linearised(pixels, state, look, scale))


def pixel_slopes(
    pixels: PixelPairs, state: AlignmentState, look: LookUp, scale: float
) -> Float[Tensor, "k n free"]:
    """Each chosen pixel's part of `NormalEquations.pose_slopes`."""
    jacobian, _, residuals = _linearised(pixels, state, look, scale)
    slopes = (jacobian * residuals[..., None]).sum(1)
    return _by_pixel(pixels, slopes)


def solve(
    equations: NormalEquations, state: AlignmentState, prior: DepthPrior, damping: float
) -> AlignmentState:
    """The state after one damped step (Levenberg-Marquardt)."""
    stiffness = 1 / prior.deviation**2
    depths = (equations.depths + stiffness) * (1 + damping)
    slopes = equations.depth_slopes + stiffness * (state.inverse_depth - prior.mean)
    cross = equations.cross.flatten(0, 1)
    shared = cross / depths.flatten()[:, None]
    diagonal = equations.poses.diagonal()
    reduced = equations.poses - (cross.T @ shared).double()
    reduced = reduced + torch.diag(damping * diagonal + 1e-9 * diagonal.mean() + ALMOST_ZERO)
    twists = -torch.linalg.solve(
        reduced, equations.pose_slopes - (shared.T @ slopes.flatten()).double()
    )
    step = -(slopes + (cross @ twists.float()).unflatten(0, depths.shape)) / depths
    step = step.clamp(-LARGEST_DEPTH_STEP, LARGEST_DEPTH_STEP)
    moved = state.world_to_camera.clone()
    moved[1:] = rigid_exponential(twists.unflatten(0, (-1, 6))) @ moved[1:]
    return replace(
        state,
        world_to_camera=moved,
        inverse_depth=(state.inverse_depth + step).clamp(*INVERSE_DEPTH_LIMITS),
    )


def expose(pixels: PixelPairs, state: AlignmentState, scale: float) -> AlignmentState:
    """The state with each frame's gain and bias fitted to the keyframes as they are; the first keeps its own."""
    look = pixels.look_up(state)
    residuals = pixels.residuals(look, state)
    weights = look.seen / (1 + residuals.square().sum(dim=1) / (FREEDOM * scale**2))
    target = pixels.values * state.gain[pixels.keys][:, None, None]
    target = target + state.bias[pixels.keys][:, None, None]
    values, many = look.values, weights[:, None].expand_as(look.values)
    sums = torch.stack(
        [
            many,
            many * values,
            many * values * values,
            many * target,
            many * values * target,
        ]
    ).sum(dim=(2, 3), dtype=torch.float64)
    totals = sums.new_zeros(5, pixels.num_frames).index_add_(1, pixels.others, sums)
    one, x, xx, y, xy = totals
    gain_weight, bias_weight = ((scale / deviation) ** 2 for deviation in EXPOSURE_PRIOR)
    a, b, c = xx + gain_weight, x, one + bias_weight
    determinant = a * c - b * b
    gain = ((xy + gain_weight) * c - b * y) / determinant
    bias = (a * y - b * (xy + gain_weight)) / determinant
    gain[0], bias[0] = 1.0, 0.0
    return replace(state, gain=gain.float(), bias=bias.float())


def rigid_exponential(twists: Float[Tensor, "n 6"]) -> Float[Tensor, "n 4 4"]:
    """Rigid transforms of twists (v, w)."""
    matrices = twists.new_zeros(len(twists), 4, 4)
    matrices[:, :3, :3] = skew(twists[:, 3:])
    matrices[:, :3, 3] = twists[:, :3]
    return torch.linalg.matrix_exp(matrices)


def _linearised(
    pixels: PixelPairs, state: AlignmentState, look: LookUp, scale: float
) -> tuple[Float[Tensor, "p 2 n 12"], Float[Tensor, "p 2 n"], Float[Tensor, "p 2 n"]]:
    """Each pair's two weighted equations a pixel: how they change with the twists of the other frame and the
    keyframe, how with the inverse depth, and by how much they are off."""
    residuals = pixels.residuals(look, state)
    weights = look.seen / (1 + residuals.square().sum(dim=1) / (FREEDOM * scale**2)) / scale**2
    rows, right_hand = _two_rows(look, residuals, weights, state.gain[pixels.others])
    # Each of a pixel's two rows as a slope in the point's three coordinates.
    across, along = (pixels.focal / look.z[..., None]).unbind(-1)
    share = look.points[..., :2] / look.z[..., None]
    x, y = rows[..., 0] * across[:, None], rows[..., 1] * along[:, None]
    slopes = torch.stack([x, y, -x * share[:, None, :, 0] - y * share[:, None, :, 1]], dim=-1)
    in_key = slopes @ look.rotation[:, None]
    inverse = state.inverse_depth[pixels.rows][:, None, :, None]
    points, rays = look.points[:, None].expand_as(slopes), pixels.rays[:, None].expand_as(slopes)
    # How a twist moves a point: by v times its inverse depth, and by w x point.
    jacobian = torch.cat(
        [
            slopes * inverse,
            torch.linalg.cross(points, slopes),
            -in_key * inverse,
            -torch.linalg.cross(rays, in_key),
        ],
        dim=-1,
    )
    of_depth = (slopes * look.translation[:, None, None]).sum(-1)
    return jacobian, of_depth, right_hand


def _two_rows(
    look: LookUp,
    residuals: Float[Tensor, "p 3 n"],
    weights: Float[Tensor, "p n"],
    gain: Float[Tensor, " p"],
) -> tuple[Float[Tensor, "p 2 n 2"], Float[Tensor, "p 2 n"]]:
    """Two weighted equations in the pixel position that say the same as one for each of three colours.

    They are the Cholesky factor of the structure tensor. Returns slopes (right, down) and residuals.
    """
    right, down = (look.slopes * gain[:, None, None, None]).unbind(1)
    xx = (weights * right.square().sum(1)).clamp_min(0) + ALMOST_ZERO
    xy = weights * (right * down).sum(1)
    yy = weights * down.square().sum(1) + ALMOST_ZERO
    x = weights * (right * residuals).sum(1)
    y = weights * (down * residuals).sum(1)
    first = xx.sqrt()
    mixed = xy / first
    second = (yy - mixed.square()).clamp_min(ALMOST_ZERO).sqrt()
    one = x / first
    two = (y - mixed * one) / second
    rows = torch.stack(
        [torch.stack([first, mixed], -1), torch.stack([torch.zeros_like(second), second], -1)], 1
    )
    return rows, torch.stack([one, two], 1)


def _gathered(
    pixels: PixelPairs,
    jacobian: Float[Tensor, "p 2 n 12"],
    of_depth: Float[Tensor, "p 2 n"],
    residuals: Float[Tensor, "p 2 n"],
) -> NormalEquations:
    """The pairs' equations added up, twists of the first frame left out."""
    num_frames = pixels.num_frames
    rows = jacobian.flatten(1, 2)
    pair_hessians = (rows.mT @ rows).double()
    pair_slopes = (rows.mT @ residuals.flatten(1)[..., None])[..., 0].double()
    ends = (pixels.others, pixels.keys)
    halves = (slice(0, 6), slice(6, 12))
    # index_add_, not index_put_, whose sums come in an order that threads decide.
    poses = pair_hessians.new_zeros(num_frames * num_frames, 6, 6)
    slopes = pair_slopes.new_zeros(num_frames, 6)
    for end, half in zip(ends, halves, strict=True):
        slopes.index_add_(0, end, pair_slopes[:, half])
        for other_end, other_half in zip(ends, halves, strict=True):
            poses.index_add_(0, end * num_frames + other_end, pair_hessians[:, half, other_half])
    poses = poses.unflatten(0, (num_frames, num_frames))
    empty = jacobian.new_zeros(len(pixels.keyframes), pixels.num_pixels)
    return NormalEquations(
        poses=poses.movedim(1, 2).flatten(2, 3).flatten(0, 1)[6:, 6:],
        pose_slopes=slopes.flatten()[6:],
        cross=_by_pixel(pixels, (jacobian * of_depth[..., None]).sum(1)),
        depths=empty.index_add(0, pixels.rows, of_depth.square().sum(1)),
        depth_slopes=empty.index_add(0, pixels.rows, (of_depth * residuals).sum(1)),
    )


def _by_pixel(pixels: PixelPairs, pairs: Float[Tensor, "p n 12"]) -> Float[Tensor, "k n free"]:
    """What belongs to the twists of a pair's frames, added up for each keyframe's pixel."""
    shape = (len(pixels.keyframes), pixels.num_frames)
    total = pairs.new_zeros(shape[0] * shape[1], pixels.num_pixels, 6)
    for end, half in ((pixels.others, slice(0, 6)), (pixels.keys, slice(6, 12))):
        total.index_add_(0, pixels.rows * pixels.num_frames + end, pairs[..., half])
    total = total.unflatten(0, shape)
    return total.movedim(1, 2).flatten(2, 3)[..., 6:].contiguous()

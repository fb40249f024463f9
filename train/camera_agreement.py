"""Whether generated videos follow their commanded cameras, on scenes whose truth is known.

A scene gives two true clips that leave one first frame in opposite directions
(`data.procedural.path_pairs`), and the model a video for each. Three measures need no learned features:

- motion share: the share of the commanded motion that best explains the video's last frame (truth 1,
  still copy 0, opposite motion negative);
- two-way choice: how often a video is nearer to the truth of its own path than to that of the other
  (chance 0.5, truth 1);
- matched minus crossed: by how many dB (chance 0).

PSNR against the own path's truth alone rewards standing still. All measures are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.linalg import logm
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from data.cameras import Cameras
from data.clips import Clip
from data.warping import look_up, unproject

SHARES = torch.linspace(-1.5, 2, 71)
"""Shares of the commanded motion that are tried."""
WELL_COVERED = 0.5
"""The moved first frame must cover this much of the frame that is judged."""
LEAST_COVER = 0.25
"""And this much of the picture at any share that is tried."""
MSE_FLOOR = 1e-6
"""Equal pictures count as 60 dB."""


@dataclass(frozen=True)
class CameraAgreement:
    """Scores of one scene: of the own path's video, then the mirrored path's.

    motion_share: NaN where the commanded path does not move, so that there is no share to speak of.
    chose_own: 1 where the second half of the video is nearer to its own path's truth, 0 where it is
        nearer to the other's, 0.5 where both are as near.
    psnr, crossed_psnr: of all frames but the first against the own path's truth and the other's [dB].
    """

    motion_share: tuple[float, float]
    chose_own: tuple[float, float]
    psnr: tuple[float, float]
    crossed_psnr: tuple[float, float]


def camera_agreement(
    truth: tuple[Clip, Clip],
    videos: tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 3 h w"]],
    candidates: tuple[MotionCandidates, MotionCandidates] | None = None,
) -> CameraAgreement:
    """Scores of the videos generated for a scene's own and mirrored path, frames in [0, 1].

    truth: the two clips, with depth of their first frame.
    candidates: `motion_candidates` of both, for who scores more videos of one scene.
    """
    own, crossed, chose = [], [], []
    for video, clip, other in zip(videos, truth, truth[::-1], strict=True):
        matched, mismatched = frame_psnr(video, clip.frames), frame_psnr(video, other.frames)
        own.append(float(matched[1:].mean()))
        crossed.append(float(mismatched[1:].mean()))
        half = len(video) // 2
        gain = float(matched[half:].mean() - mismatched[half:].mean())
        chose.append(0.5 if gain == 0 else float(gain > 0))
    moves = candidates or (motion_candidates(truth[0]), motion_candidates(truth[1]))
    shares = [motion_share(video, move) for video, move in zip(videos, moves, strict=True)]
    return CameraAgreement(
        motion_share=(shares[0], shares[1]),
        chose_own=(chose[0], chose[1]),
        psnr=(own[0], own[1]),
        crossed_psnr=(crossed[0], crossed[1]),
    )


def summarise(scores: Sequence[CameraAgreement]) -> dict[str, float]:
    """The means over scenes and paths, by the names under which they are reported."""
    shares = torch.tensor([value for score in scores for value in score.motion_share])
    own = torch.tensor([value for score in scores for value in score.psnr])
    crossed = torch.tensor([value for score in scores for value in score.crossed_psnr])
    chose = torch.tensor([value for score in scores for value in score.chose_own])
    return {
        "motion_share": float(shares.nanmean()),
        "two_way_choice": float(chose.mean()),
        "matched_minus_crossed_db": float((own - crossed).mean()),
        "psnr": float(own.mean()),
    }


@dataclass(frozen=True)
class MotionCandidates:
    """What one late frame of a path would show after each share of the commanded motion.

    frame: which frame of a video is judged.
    moved: the true first frame moved by its true depth to where a camera would stand that has made each of
        `SHARES` of the motion, blurred; none where the camera does not move.
    covered: the pixels that it covers there.
    """

    frame: int
    moved: Float[Tensor, "s 3 h w"]
    covered: Bool[Tensor, "s h w"]


def motion_share(video: Float[Tensor, "t 3 h w"], truth: Clip | MotionCandidates) -> float:
    """The share of the commanded motion, -1.5 to 2, that best explains one late frame of the video.

    truth: the path's true clip, or the candidates made of it, which serve any number of videos.
    NaN where the camera does not move.
    """
    candidates = truth if isinstance(truth, MotionCandidates) else motion_candidates(truth)
    if not len(candidates.moved):
        return float("nan")
    error = (candidates.moved - _smooth(video[candidates.frame][None])).square().mean(dim=1)
    counts = candidates.covered.sum(dim=(1, 2))
    mean = (error * candidates.covered).sum(dim=(1, 2)) / counts.clamp_min(1)
    mean[counts < LEAST_COVER * candidates.covered[0].numel()] = torch.inf
    return _lowest(SHARES, mean)


def motion_candidates(truth: Clip) -> MotionCandidates:
    """What `motion_share` holds a video against.

    The frame is the path's farthest from its start that the first frame still covers half of: the last one,
    unless the path comes back or leaves the scene.
    """
    distance = truth.cameras.positions.norm(dim=-1)
    distance += _rotation_vectors(truth.cameras.world_to_camera[:, :3, :3]).norm(dim=-1)
    moved, covered = move_first_frame(truth, truth.cameras)
    distance[covered.float().mean(dim=(1, 2)) < WELL_COVERED] = 0
    farthest = int(distance.argmax())
    if distance[farthest] < 1e-6:
        return MotionCandidates(farthest, moved[:0], covered[:0])
    moved, covered = move_first_frame(truth, part_of_motion(truth.cameras.select(farthest), SHARES))
    return MotionCandidates(farthest, _smooth(moved), covered)


def part_of_motion(camera: Cameras, shares: Float[Tensor, " s"]) -> Cameras:
    """Cameras that have made the given shares of the one camera's motion away from the origin.

    The motion is taken as one screw: half an orbit stays on the orbit, and -1 is the inverse transform.
    """
    screw = torch.from_numpy(logm(camera.camera_to_world[0].double().numpy()).real)
    to_world = torch.linalg.matrix_exp(shares.double()[:, None, None] * screw).float()
    intrinsics = camera.intrinsics.expand(len(shares), 3, 3)
    return Cameras.from_camera_to_world(to_world, intrinsics, camera.height, camera.width)


def move_first_frame(
    clip: Clip, cameras: Cameras
) -> tuple[Float[Tensor, "v 3 h w"], Bool[Tensor, "v h w"]]:
    """The clip's first frame as each camera would see it, by its depth, and the pixels that it covers."""
    assert clip.depth is not None
    first = clip.cameras.select(0)
    depth = _splat_depth(clip.depth[0], first, cameras)
    covered = torch.isfinite(depth)
    points = unproject(cameras, torch.where(covered, depth, 1.0))
    num_views = cameras.num_views
    source = Cameras(
        first.world_to_camera.expand(num_views, 4, 4),
        first.intrinsics.expand(num_views, 3, 3),
        first.height,
        first.width,
    )
    colours, shown = look_up(clip.frames[:1].expand(num_views, -1, -1, -1), source, points)
    return colours, covered & shown


def frame_psnr(a: Float[Tensor, "t 3 h w"], b: Float[Tensor, "t 3 h w"]) -> Float[Tensor, " t"]:
    """PSNR of each frame [dB], at most 60."""
    return -10 * torch.log10((a - b).square().mean(dim=(1, 2, 3)).clamp_min(MSE_FLOOR))


def _splat_depth(
    depth: Float[Tensor, "h w"], source: Cameras, targets: Cameras
) -> Float[Tensor, "v h w"]:
    """The nearest depth that falls on each pixel of the targets; infinite where none does.

    Each source pixel gives four points, so that moving nearer by up to twice leaves no holes for what
    lies behind to show through.
    """
    fine = depth.repeat_interleave(2, 0).repeat_interleave(2, 1)
    points = unproject(source.resize(2 * source.height, 2 * source.width), fine[None])
    known = fine.flatten() > 0
    pixels, z = targets.project(points.flatten(0, 2)[known])
    column, row = pixels.floor().long().unbind(-1)
    inside = (z > 1e-3) & (column >= 0) & (column < targets.width)
    inside &= (row >= 0) & (row < targets.height)
    size = targets.height * targets.width
    place = torch.where(inside, row * targets.width + column, size)
    nearest = torch.full((targets.num_views, size + 1), torch.inf)
    nearest.scatter_reduce_(1, place, z, "amin")
    return nearest[:, :size].unflatten(1, (targets.height, targets.width))


def _smooth(frames: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
    """Frames blurred a little, so that a moved frame is not judged by what resampling took away."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(frames, [1, 1, 1, 1], mode="replicate"), weight, groups=3)


def _lowest(positions: Float[Tensor, " s"], values: Float[Tensor, " s"]) -> float:
    """Where evenly spaced values are lowest, refined by a parabola through the neighbours."""
    best = int(values.argmin())
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2].double().tolist()
        bend = left - 2 * middle + right
        if 0 < bend < float("inf"):
            step = float(positions[1] - positions[0])
            return float(positions[best]) + step * 0.5 * (left - right) / bend
    return float(positions[best])


def _rotation_vectors(matrices: Float[Tensor, "v 3 3"]) -> Float[Tensor, "v 3"]:
    return torch.from_numpy(Rotation.from_matrix(matrices.double().numpy()).as_rotvec()).float()

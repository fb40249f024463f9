"""What one gets without reconstructing anything: copying, warping, and the codec's round trip.

Each takes the input frames with their cameras and returns what it predicts at the target cameras.

Legend: s source (input) views, v target views.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.cameras import Cameras
from data.clips import Clip
from data.warping import look_up, plane_points, unproject
from models.autoencoders.interface import VideoAutoencoder


def nearest_view(sources: Cameras, targets: Cameras, depth: float = 1.0) -> Int[Tensor, " target"]:
    """The source view nearest to each target view.

    Two things move between views: the camera centre, and the point straight ahead at `depth` [scene
    units]. The distance is the root of the sum of both squared moves, so that at the scene's median
    depth a turn counts as much as the shift of the picture that it causes. Ties go to the earlier
    view.
    """
    source_marks, target_marks = _camera_marks(sources, depth), _camera_marks(targets, depth)
    return torch.cdist(target_marks, source_marks).argmin(dim=1)


def copy_nearest(
    frames: Float[Tensor, "s 3 h w"], sources: Cameras, targets: Cameras, depth: float = 1.0
) -> Float[Tensor, "v 3 h w"]:
    """The input frame nearest to each target view, as it is."""
    return frames[nearest_view(sources, targets, depth)]


def median_depth(
    frames: Float[Tensor, "s 3 h w"],
    sources: Cameras,
    targets: Cameras,
    depths: Float[Tensor, " s"],
) -> Float[Tensor, "v 3 h w"]:
    """The nearest input frame, reprojected as if all of it stood at one depth.

    The world is a plane that faces the nearest source camera at z-depth `depths[s]` [scene units];
    each target pixel is looked up where its ray meets that plane (a homography). Outside the frame
    the border repeats.
    """
    nearest = nearest_view(sources, targets, float(depths.median()))
    chosen = sources.select(nearest)
    drawn, _ = look_up(frames[nearest], chosen, plane_points(chosen, targets, depths[nearest]))
    return drawn


def true_depth(
    frames: Float[Tensor, "s 3 h w"],
    sources: Cameras,
    targets: Cameras,
    target_depth: Float[Tensor, "v h w"],
) -> Float[Tensor, "v 3 h w"]:
    """The nearest input frame, reprojected with the target's true z-depth [scene units].

    It knows what no method knows, so it is for analysis: what is lost is occlusion and resampling
    alone.
    """
    known = target_depth[target_depth > 0]
    nearest = nearest_view(sources, targets, float(known.median()) if len(known) else 1.0)
    points = unproject(targets, target_depth)
    return look_up(frames[nearest], sources.select(nearest), points)[0]


def autoencoder_round_trip(
    autoencoder: VideoAutoencoder, frames: Float[Tensor, "t 3 h w"]
) -> Float[Tensor, "t 3 h w"]:
    """The input frames after encode and decode: the ceiling for what sees the latents alone."""
    with torch.no_grad():
        latents = autoencoder.encode(frames[None])
        return autoencoder.decode(latents)[0].clamp(0, 1)


def frame_depths(clip: Clip, views: list[int]) -> Float[Tensor, " view"]:
    """The median z-depth of each frame [scene units]; 1 for frames whose depth nobody knows.

    A clip that tells no depth is normalised so that about 1 is what the first frame looks at.
    """
    depths = torch.ones(len(views), dtype=torch.float64)
    if clip.depth is not None:
        for row, view in enumerate(views):
            known = clip.depth[view][clip.depth[view] > 0]
            if len(known):
                depths[row] = float(known.median())
    return depths.to(clip.frames.dtype)


def _camera_marks(cameras: Cameras, depth: float) -> Float[Tensor, "view 6"]:
    """Each camera's centre and the point straight ahead of it at `depth`."""
    to_world = cameras.camera_to_world.double()
    centres, forward = to_world[:, :3, 3], to_world[:, :3, 2]
    return torch.cat([centres, centres + depth * forward], dim=-1)

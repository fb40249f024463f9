"""What one gets without reconstructing anything: copying, warping, and the codec's round trip.

Each takes the input frames with their cameras and returns what it predicts at the target cameras.

Legend: s source (input) views, v target views.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.cameras import Cameras, pixel_centres
from data.clips import Clip
from models.autoencoder import VideoAutoencoder


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
    origins, directions = targets.rays()
    # The plane's points x satisfy axis . x = offset, where axis is the source's viewing direction.
    axes = chosen.camera_to_world[:, :3, 2]
    offsets = (axes * chosen.positions).sum(-1) + depths[nearest]
    approach = torch.einsum("vj,vhwj->vhw", axes, directions)
    distance = (offsets - (axes * origins).sum(-1))[:, None, None] / approach
    # Rays along the plane or away from it meet it nowhere: look them up at their vanishing point.
    meets = (approach > 1e-6) & (distance > 0)
    distance = torch.where(meets, distance, torch.full_like(distance, 1e6))
    points = origins[:, None, None, :] + distance[..., None] * directions
    return sample_frames(frames[nearest], chosen, points)


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
    return sample_frames(frames[nearest], sources.select(nearest), unproject(targets, target_depth))


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


def unproject(cameras: Cameras, depth: Float[Tensor, "v h w"]) -> Float[Tensor, "v h w 3"]:
    """World points of pixel centres at the given z-depths."""
    pixels = pixel_centres(cameras.height, cameras.width).to(cameras.intrinsics)
    local = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.intrinsics), pixels)
    to_world = cameras.camera_to_world
    points = torch.einsum("vij,vhwj->vhwi", to_world[:, :3, :3], local * depth[..., None])
    return points + to_world[:, None, None, :3, 3]


def sample_frames(
    frames: Float[Tensor, "v 3 h w"], cameras: Cameras, points: Float[Tensor, "v h w 3"]
) -> Float[Tensor, "v 3 h w"]:
    """The colour that frame v shows at its world points v: bilinear, the border repeated outside.

    Points at or behind the camera plane are looked up as if just before it.
    """
    to_camera = cameras.world_to_camera
    local = torch.einsum("vij,vhwj->vhwi", to_camera[:, :3, :3], points)
    local = local + to_camera[:, None, None, :3, 3]
    z = local[..., 2:].clamp(min=1e-6)
    image = torch.einsum("vij,vhwj->vhwi", cameras.intrinsics, torch.cat([local[..., :2], z], -1))
    size = image.new_tensor([cameras.width, cameras.height])
    grid = 2 * (image[..., :2] / z) / size - 1
    return torch.nn.functional.grid_sample(
        frames, grid.to(frames.dtype), padding_mode="border", align_corners=False
    )


def _camera_marks(cameras: Cameras, depth: float) -> Float[Tensor, "view 6"]:
    """Each camera's centre and the point straight ahead of it at `depth`."""
    to_world = cameras.camera_to_world.double()
    centres, forward = to_world[:, :3, 3], to_world[:, :3, 2]
    return torch.cat([centres, centres + depth * forward], dim=-1)

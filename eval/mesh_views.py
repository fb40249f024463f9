"""Which views `mesh` makes its mesh from, and which others it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.camera_interpolation import interpolate_cameras
from data.cameras import Cameras, concatenate_cameras
from eval.pages.display_filter import with_pixel_blur
from eval.pages.flythrough import flythrough_cameras
from eval.reconstruction import render_scene
from models.gaussians import Gaussians
from models.meshing.views import path_views, turntable, views_around, views_beside

Kind = Literal["path", "around", "both"]
BESIDE_PART = 1 / 3
"""Of the views that belong to a path, this part stands beside it."""
BESIDE, BESIDE_JUDGED = 0.15, 0.1
"""How far beside, as a share of the median depth; views to judge by stand nearer, where the mesh has no excuse."""
NUM_JUDGED = 8
NUM_FLIGHT = 192
AROUND_SIZE = (192, 192)
"""Of views from all around a scene without cameras [px]."""


@dataclass(frozen=True)
class ViewPlan:
    """All that is looked at.

    gaussians: as they are drawn, with the pixel blur of their own path made part of them. used: what the mesh comes
    from. judged: views that took no part, by what they are called. all_around: whether the scene is seen from
    everywhere. flight: a smooth move through or around the scene. first: where a viewer may begin to look from.
    """

    gaussians: Gaussians
    used: Cameras
    judged: dict[str, Cameras]
    all_around: bool
    flight: Cameras
    note: str

    @property
    def first(self) -> Cameras:
        return self.flight.select(0)


def plan_views(
    gaussians: Gaussians,
    cameras: Cameras | None,
    kind: Kind,
    num_views: int,
    size: tuple[int, int] | None,
) -> ViewPlan:
    """The views of an unbatched scene; see `ViewPlan`.

    cameras: the scene's own path; None where it has none, which leaves the kind "around" alone. size: of the
    pictures [px]; None takes twice the path's.
    """
    if cameras is None:
        assert kind == "around"
        height, width = size or AROUND_SIZE
        used = views_around(gaussians, num_views, height, width)
        judged = {"other directions": views_around(gaussians, NUM_JUDGED + 1, height, width)}
        note = f"{num_views} views from all around"
        flight = turntable(gaussians, NUM_FLIGHT, height, width)
        return ViewPlan(gaussians, used, judged, True, flight, note)
    shown = with_pixel_blur(gaussians, cameras.to(gaussians.means.device))
    height, width = size or (2 * cameras.height, 2 * cameras.width)
    path = cameras.resize(height, width)
    num_around = {"path": 0, "both": num_views // 2, "around": num_views}[kind]
    num_beside = round(BESIDE_PART * (num_views - num_around))
    parts, judged = [], {}
    if kind != "around":
        along = path_views(path, num_views - num_around - num_beside)
        parts.append(along)
        if num_beside:
            parts.append(views_beside(along, median_depths(shown, along), num_beside, BESIDE))
        middles = (torch.arange(NUM_JUDGED) + 0.5) * (path.num_views - 1) / NUM_JUDGED
        between = interpolate_cameras(path, middles)
        judged["between"] = between
        judged["beside"] = views_beside(
            between, median_depths(shown, between), NUM_JUDGED, BESIDE_JUDGED
        )
    if num_around:
        parts.append(views_around(shown, num_around, height, width))
        judged["other directions"] = views_around(shown, NUM_JUDGED + 1, height, width)
    used = concatenate_cameras(parts)
    note = (
        f"{used.num_views} views: {used.num_views - num_beside - num_around} along the scene's path,"
        f" {num_beside} beside it, {num_around} from all around"
    )
    return ViewPlan(shown, used, judged, kind == "around", flythrough_cameras(path), note)


@torch.no_grad()
def median_depths(gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, " v"]:
    """The median depth that each view shows [scene units]; 1 where it shows nothing."""
    found = []
    for view in range(cameras.num_views):
        drawn = render_scene(gaussians, cameras.select(view).to(gaussians.means.device))
        depth = drawn.expected_depth[drawn.alpha > 0.5]
        found.append(depth.median() if len(depth) else depth.new_tensor(1.0))
    return torch.stack(found).cpu()

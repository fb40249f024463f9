"""The interactive viewer, made with viser: a live server, or one HTML file that opens from disk.

Scenes keep their OpenCV axes; the viewer is told that up is -y. It draws plain RGB, so of spherical
harmonics only the constant term is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, invert_rigid
from data.durable_files import write_durably
from eval.pages.viewer_flight import paused_at_first, record_flight
from models.gaussians import SH_C0, Gaussians, matrix_to_quat, quat_to_matrix

if TYPE_CHECKING:
    import viser

MIN_OPACITY = 0.02
"""Gaussians fainter than this are left out of the viewer: they cost bytes and show nothing."""

MAX_FRUSTA = 5
PATH_NODE = "/path"
PATH_COLOUR = (232, 120, 70)
DEFAULT_FOV = math.radians(50)
STEP_BACK, STEP_UP = 0.3, 0.08
"""How far behind and above the middle camera the viewer opens, in median scene depths."""
HALF_FLOAT_TARGET = 0.1
"""Covariances are stored in half floats; extents are scaled so that their median is this."""


def write_viewer(path: Path, gaussians: Gaussians, cameras: Cameras | None = None) -> int:
    """Writes a self-contained page that shows the scene; returns how many Gaussians it holds.

    cameras: `[v]` unbatched; the page opens at the middle one, draws the path through all of them, and
        flies along it when its play button is pressed.
    """
    kept = gaussians.prune(MIN_OPACITY)
    route = cameras if cameras is not None and cameras.num_views > 1 else None
    with _quiet_console():
        server = start_server(port=0, host="127.0.0.1")
        try:
            look_distance = add_scene(server, kept, cameras)
            serializer = server.get_scene_serializer()
            if route is not None:
                record_flight(server, serializer, route, look_distance, hidden=PATH_NODE)
            page = serializer.as_html(dark_mode=True)
        finally:
            server.stop()
    if route is not None:
        page = paused_at_first(page)
    write_durably(path, page.encode())
    return kept.num_gaussians


def start_server(port: int, host: str) -> viser.ViserServer:
    """A running viser server; raises UserError where viser is not installed."""
    try:
        import viser
    except ImportError as error:
        raise UserError(
            f"the viewer needs viser, which does not load ({error}): pip install viser"
        ) from error
    return viser.ViserServer(host=host, port=port, verbose=False)


def add_scene(
    server: viser.ViserServer, gaussians: Gaussians, cameras: Cameras | None = None
) -> float:
    """Puts the Gaussians, the camera path and the opening view into the viewer.

    Returns how far ahead the opening view looks [scene units].
    """
    server.scene.set_up_direction("-y")
    scales = gaussians.scales.double()
    zoom = HALF_FLOAT_TARGET / float(scales.median()) if gaussians.num_gaussians else 1.0
    axes = quat_to_matrix(gaussians.quats.double()) * (zoom * scales)[:, None, :]
    server.scene.add_gaussian_splats(
        "/scene",
        centers=(zoom * gaussians.means).float().numpy(force=True),
        covariances=(axes @ axes.mT).clamp(-6e4, 6e4).numpy(force=True),
        rgbs=_rgb(gaussians).numpy(force=True),
        opacities=gaussians.opacities[:, None].numpy(force=True),
        scale=1 / zoom,
    )
    if cameras is None:
        opening, fov = torch.eye(4), DEFAULT_FOV
    else:
        middle = cameras.select(cameras.num_views // 2)
        opening, fov = middle.camera_to_world[0], _vertical_fov(cameras, cameras.num_views // 2)
    distance = _look_distance(gaussians, invert_rigid(opening))
    if cameras is not None:
        _add_path(server, cameras, size=0.012 * distance)
    centre, (_, down, forward) = opening[:3, 3], opening[:3, :3].T
    # A step back and up, so that the path is in sight; dragging then turns around what it looks at.
    start = centre - distance * (STEP_BACK * forward + STEP_UP * down)
    server.initial_camera.position = tuple(start.tolist())
    server.initial_camera.look_at = tuple((centre + distance * forward).tolist())
    server.initial_camera.fov = fov
    server.initial_camera.near = distance / 1000
    return distance


def _add_path(server: viser.ViserServer, cameras: Cameras, size: float) -> None:
    """A line through all camera centres, and the frusta of up to `MAX_FRUSTA` views."""
    centres, to_world = cameras.positions.float(), cameras.camera_to_world
    if cameras.num_views > 1:
        server.scene.add_line_segments(
            PATH_NODE,
            points=torch.stack([centres[:-1], centres[1:]], dim=1).numpy(force=True),
            colors=PATH_COLOUR,
            thickness=size / 20,
        )
    for view in range(0, cameras.num_views, math.ceil(cameras.num_views / MAX_FRUSTA)):
        server.scene.add_camera_frustum(
            f"{PATH_NODE}/{view}",
            fov=_vertical_fov(cameras, view),
            aspect=cameras.width / cameras.height,
            scale=size,
            thickness=size / 20,
            color=PATH_COLOUR,
            wxyz=matrix_to_quat(to_world[view, :3, :3]).numpy(force=True),
            position=centres[view].numpy(force=True),
        )


def _vertical_fov(cameras: Cameras, view: int) -> float:
    """Radians."""
    return 2 * math.atan(0.5 * cameras.height / float(cameras.intrinsics[view, 1, 1]))


def _look_distance(gaussians: Gaussians, world_to_camera: Tensor) -> float:
    """Median z-depth of the Gaussians before the camera [scene units]; 1 where there are none."""
    transform = world_to_camera.to(gaussians.means)
    depth = gaussians.means @ transform[2, :3] + transform[2, 3]
    ahead = depth[depth > 0]
    return float(ahead.median()) if len(ahead) else 1.0


def _rgb(gaussians: Gaussians) -> Tensor:
    colours = gaussians.colors
    if gaussians.sh_degree is not None:
        colours = 0.5 + SH_C0 * colours[:, 0]
    return colours.clamp(0, 1)


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Keeps viser's start and stop notices, which it prints through rich, off the terminal."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before

"""Procedural clips: endless static scenes with exact cameras and depth."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.procedural.config import SceneConfig
from data.procedural.layout import draw_scene
from data.procedural.scene import SceneArrays
from data.procedural.textures import GAMMA
from data.procedural.tracer import trace
from data.procedural.viewpoints import Viewpoints, draw_viewpoints

MAX_ATTEMPTS = 200
"""Scenes tried for one clip; four in five will do."""

CONTRAST = 0.3
"""Strength of the S-shaped tone curve, 0 to 1."""


def make_clip(seed: int, config: SceneConfig, *, num_threads: int = 1) -> Clip:
    """A normalised clip: the path's frames, then near, then far extra views (see `extra_views`).

    Bitwise a function of (seed, config); threads only share the work. The unit of length is the median
    depth of the first frame, whose camera is the identity; `scale` is that depth in metres.
    """
    scene, views, lens = draw_posed_scene(seed, config)
    size = (config.height, config.width)
    linear, depth = trace(
        scene,
        views.camera_to_world,
        lens,
        *size,
        supersampling=config.supersampling,
        num_threads=num_threads,
    )
    return posed_clip(
        develop(linear, draw_brightness(seed)),
        depth,
        views.camera_to_world,
        lens,
        source=f"procedural/{seed:08d}",
        num_path_frames=config.num_frames,
    )


def posed_clip(
    frames: NDArray[np.float32],
    depth: NDArray[np.float32],
    camera_to_world: NDArray[np.float64],
    lens: NDArray[np.float64],
    *,
    source: str,
    num_path_frames: int,
) -> Clip:
    """A normalised clip of pictures `[v h w 3]` with depth `[v h w]` and cameras `[v 4 4]` in metres."""
    pictures = torch.from_numpy(frames).movedim(-1, 1).contiguous()
    cameras = Cameras.from_camera_to_world(
        torch.from_numpy(camera_to_world),
        torch.from_numpy(lens).expand(len(pictures), 3, 3),
        *pictures.shape[-2:],
    )
    return Clip(
        frames=pictures,
        cameras=cameras,
        source=source,
        num_path_frames=num_path_frames,
        depth=torch.from_numpy(depth),
    ).normalised()


def draw_brightness(seed: int) -> float:
    """How bright the middle of a clip's first picture is (see `develop`)."""
    return float(np.random.default_rng([seed, MAX_ATTEMPTS]).uniform(0.38, 0.56))


def extra_views(config: SceneConfig) -> tuple[range, range]:
    """Indices of a clip's near and far extra views."""
    end_of_near = config.num_frames + config.num_near
    return range(config.num_frames, end_of_near), range(end_of_near, end_of_near + config.num_far)


def draw_posed_scene(
    seed: int, config: SceneConfig
) -> tuple[SceneArrays, Viewpoints, NDArray[np.float64]]:
    """The scene of a clip, its cameras in metres, and the lens `[3 3]` in pixels.

    Raises UserError where the config asks for cameras that no scene has room for.
    """
    for attempt in range(MAX_ATTEMPTS):
        scene, views, lens = try_posed_scene(seed, attempt, config)
        if views is not None:
            return scene, views, lens
    raise UserError(
        f"procedural/{seed:08d}: none of {MAX_ATTEMPTS} scenes has room for such cameras (travel"
        f" {list(config.travel)}, far_offset {list(config.far_offset)}, {config.num_near} near and"
        f" {config.num_far} far views); lower one of these"
    )


def try_posed_scene(
    seed: int, attempt: int, config: SceneConfig
) -> tuple[SceneArrays, Viewpoints | None, NDArray[np.float64]]:
    """One attempt at `draw_posed_scene`: the viewpoints are None where the scene offers none."""
    rng = np.random.default_rng([seed, attempt])
    fov = rng.uniform(*config.vertical_fov_deg)
    lens = intrinsics_from_fov(fov, config.height, config.width).double().numpy()
    half_angle = math.atan(config.width / 2 / lens[0, 0])
    scene = draw_scene(
        rng,
        is_room=bool(rng.random() < config.room_share),
        view_half_angle=half_angle,
        rays_per_side=config.supersampling,
    )
    return scene, draw_viewpoints(rng, scene, lens, config), lens


def develop(linear: NDArray[np.float32], brightness: float) -> NDArray[np.float32]:
    """sRGB-like pictures in [0, 1] from linear colour `[v h w 3]`, all with one exposure.

    The exposure takes the first picture's median luminance to `brightness`; highlights roll off softly.
    """
    luminance = linear[0] @ np.array([0.25, 0.65, 0.10], dtype=np.float32)
    middle = max(float(np.median(luminance)), 1e-4)
    exposure = -math.log(1 - brightness**GAMMA) / middle
    film = (1 - np.exp(-np.float32(exposure) * linear)) ** np.float32(1 / GAMMA)
    return film + np.float32(CONTRAST) * (film * film * (3 - 2 * film) - film)

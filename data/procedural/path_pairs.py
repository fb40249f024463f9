"""Two true clips of one scene that leave the same first frame in opposite directions.

Only with both can one tell whether a video follows its commanded camera: against the own path's truth
alone, a still copy of the first frame often scores better than a video that moves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.clips import Clip
from data.procedural.clips import (
    MAX_ATTEMPTS,
    develop,
    draw_brightness,
    posed_clip,
    try_posed_scene,
)
from data.procedural.config import SceneConfig
from data.procedural.tracer import trace
from data.procedural.viewpoints import Probe, path_is_clear

Array = NDArray[np.float64]


def make_path_pair(seed: int, config: SceneConfig, *, num_threads: int = 1) -> tuple[Clip, Clip]:
    """The clip of a path and that of the mirrored path: same scene, same first frame, with depth.

    The mirrored path undoes the motion instead of doing it: each of its cameras is the inverse of the
    own path's, seen from the first frame, so that right becomes left, up down, and forwards backwards.
    (A mere left-to-right mirror would leave a dolly as it is, and there would be nothing to choose.)

    Both clips are normalised and have no extra views. A function of (seed, config) alone; the scene is
    not that of `make_clip` with this seed. Raises UserError where the config asks for paths that no
    scene has room for.
    """
    for attempt in range(MAX_ATTEMPTS):
        settings = config.model_copy(update={"num_near": 0, "num_far": 0})
        scene, views, lens = try_posed_scene(seed, attempt, settings)
        if views is None:
            continue
        own = views.camera_to_world
        opposite = mirrored_path(own)
        probe = Probe(scene, lens, config.height, config.width)
        if path_is_clear(probe, opposite, views.median_depth):
            break
    else:
        raise UserError(
            f"path pair {seed}: none of {MAX_ATTEMPTS} scenes has room for a path and its opposite;"
            f" lower travel, which is {list(config.travel)}"
        )
    linear, depth = trace(
        scene,
        np.concatenate([own, opposite[1:]]),
        lens,
        config.height,
        config.width,
        supersampling=config.supersampling,
        num_threads=num_threads,
    )
    frames = develop(linear, draw_brightness(seed))
    num = len(own)
    mirrored = np.r_[0, num : 2 * num - 1]
    return (
        posed_clip(
            frames[:num],
            depth[:num],
            own,
            lens,
            source=f"path_pair/{seed:08d}/own",
            num_path_frames=num,
        ),
        posed_clip(
            frames[mirrored],
            depth[mirrored],
            opposite,
            lens,
            source=f"path_pair/{seed:08d}/mirrored",
            num_path_frames=num,
        ),
    )


def mirrored_path(camera_to_world: Array) -> Array:
    """The opposite of a path `[v 4 4]`: it starts at the same camera, and every motion is undone."""
    first = camera_to_world[0]
    return first @ np.linalg.inv(camera_to_world) @ first

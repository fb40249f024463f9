"""Clips of one posed scene, after the filters that keep a set of scenes usable for training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field, field_validator

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from data.clip_cutting import PlannedCut, plan_cuts
from data.clips import Clip
from data.importers.posed_scene import FrameFit, PosedScene
from data.importers.recorded_path import check_steps
from data.left_out import LeftOut, Reason, left_out_for
from data.scene_depth import sweep_depth
from data.views import check_frame_count


class ClipRules(Config):
    """How clips are cut from scenes, and which are kept. Lengths are in median depths of a clip's scene.

    Frames and strides are Wonderland's (sec. 4.1: 49 frames; strides of 3 to 5, 1 to 2, 1); the filters are ours.
    """

    height: int = Field(480, ge=8)
    width: int = Field(720, ge=8)
    num_frames: int = Field(49, description="frames along the path: 8k+1")
    strides: tuple[int, ...] = Field(
        (1,), min_length=1, description="scene frames from one path frame to the next; one a clip"
    )
    overlap: float = Field(
        0.0, ge=0, lt=1, description="share of a clip that the next of its scene shows again"
    )
    num_extra: int = Field(24, ge=0, description="extra views a clip, between and around its path")
    enlarge: bool = Field(False, description="take frames that are smaller than the clips'")
    min_travel: float = Field(
        0.05, ge=0, description="largest distance of a path's camera from its first, at least"
    )
    keep_without_parallax: bool = Field(
        False,
        description="keep clips whose depth can't be told; their unit of length is then a guess",
    )

    @field_validator("num_frames")
    @classmethod
    def _frames_round_trip(cls, value: int) -> int:
        try:
            return check_frame_count(value, "num_frames")
        except UserError as error:
            raise ValueError(str(error)) from error

    @property
    def fit(self) -> FrameFit:
        return FrameFit(self.height, self.width, self.enlarge)


def scene_clips(
    scene: PosedScene, rules: ClipRules, kind: str
) -> Iterator[tuple[PlannedCut, Clip | LeftOut]]:
    """The clips of a scene one by one, or why one is left out; raises LeftOut where the scene is too short for any.

    Frames are read clip by clip. A clip's source is "KIND/SCENE/000" and so on, and its unit of length is the
    depth that `sweep_depth` tells from its path frames (else see `ClipRules.keep_without_parallax`).
    """
    total = len(scene.world_to_camera)
    plan = plan_cuts(
        total,
        rules.num_frames,
        rules.strides,
        rules.num_extra,
        overlap=rules.overlap,
        name=scene.name,
    )
    if not plan:
        shortest = (rules.num_frames - 1) * min(rules.strides) + 1
        raise LeftOut(
            Reason.SHORT,
            f"{scene.name}: has {total} frames; {rules.num_frames} frames at stride {min(rules.strides)} need"
            f" {shortest}",
        )
    for number, cut in enumerate(plan):
        try:
            yield cut, _clip(scene, cut, f"{kind}/{scene.name}/{number:03d}", rules)
        except LeftOut as error:
            yield cut, error


def _clip(scene: PosedScene, cut: PlannedCut, source: str, rules: ClipRules) -> Clip:
    """One normalised clip; raises LeftOut."""
    with left_out_for(Reason.UNDECODABLE):
        frames, intrinsics = scene.read(cut.views, rules.fit)
    cameras = Cameras(scene.world_to_camera[cut.views], intrinsics, rules.height, rules.width)
    with left_out_for(Reason.CAMERAS):
        cameras.validate(source)
    clip = Clip(frames, cameras, source, num_path_frames=len(cut.path))
    clip = clip.normalised(_unit_of_length(clip, rules))
    with left_out_for(Reason.JUMP):
        check_steps(clip.cameras.select(range(len(cut.path))), source)
    with left_out_for(Reason.CAMERAS):
        clip.cameras.validate(source)  # again, as they will be stored: in single precision
    return clip


def _unit_of_length(clip: Clip, rules: ClipRules) -> float | None:
    """The depth of the clip's scene in its cameras' unit; None where it can't be told and need not be."""
    path = clip.cameras.select(range(clip.num_path_frames)).relative_to(0)
    small = replace(
        path, world_to_camera=path.world_to_camera.float(), intrinsics=path.intrinsics.float()
    )
    depth = sweep_depth(clip.frames[: clip.num_path_frames], small)
    if depth is None:
        if rules.keep_without_parallax:
            return None
        raise LeftOut(
            Reason.NO_PARALLAX,
            f"{clip.source}: no depth explains how its frames differ, given its cameras: they hardly move, or do not"
            " belong to the frames, or things in the scene move",
        )
    positions = path.positions
    travel = float((positions - positions[0]).norm(dim=-1).max()) / depth
    if travel < rules.min_travel:
        raise LeftOut(
            Reason.STILL,
            f"{clip.source}: the camera gets {travel:.3f} median depths away from where it starts, less than"
            f" {rules.min_travel:g}",
        )
    return depth

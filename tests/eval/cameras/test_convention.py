"""Conventions of cameras, told by procedural frames: wrong readings are named, right cameras are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.frame_matches import FrameMatches, MatchConfig, match_frames
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from eval.cameras.convention import check_convention

SEEDS = (944_000_001, 944_000_002)
SCENE = SceneConfig(num_frames=9, num_near=0, num_far=0)
OPENGL, PYTORCH3D = (1.0, -1.0, -1.0), (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Matched:
    """A clip whose features are matched once; the first frame is the input view, at the origin."""

    frames: torch.Tensor
    cameras: Cameras
    matches: FrameMatches

    def check(self, cameras: Cameras, scene_depth: float | None = None) -> str | None:
        return check_convention(self.frames, cameras, matches=self.matches, scene_depth=scene_depth)


def blurred(frames: torch.Tensor) -> torch.Tensor:
    """As generated frames of this size look: a third of the resolution is left, and each frame's own noise."""
    small = F.interpolate(frames, scale_factor=1 / 3, mode="area")
    large = F.interpolate(small, tuple(frames.shape[-2:]), mode="bicubic")
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return (large + 0.01 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(seed, SCENE) for seed in SEEDS]


@pytest.fixture(scope="module")
def matched(clips: list[Clip]) -> Iterator[list[Matched]]:
    """Every clip as rendered, then every clip blurred."""
    with ExitStack() as stack:
        found = []
        for change in (lambda frames: frames, blurred):
            for clip in clips:
                frames, cameras = change(clip.frames), clip.cameras.to(torch.float64)
                matches = stack.enter_context(match_frames(frames, cameras, MatchConfig()))
                found.append(Matched(frames, cameras, matches))
        yield found


def flip(signs: tuple[float, float, float]) -> torch.Tensor:
    return torch.diag(torch.tensor([*signs, 1.0], dtype=torch.float64))


def as_world_to_camera(cameras: Cameras, matrices: torch.Tensor) -> Cameras:
    """What a reader gets that takes the matrices for world-to-camera ones in our axes."""
    return replace(cameras, world_to_camera=matrices)


def test_right_cameras_raise_no_alarm(matched: list[Matched], perturb_cameras) -> None:
    """Nor do cameras that are merely wrong: there is nothing to convert."""
    for number, clip in enumerate(matched):
        assert clip.check(clip.cameras) is None
        assert clip.check(perturb_cameras(clip.cameras, 10, 0.4, seed=number)) is None


def test_opengl_axes_are_named(matched: list[Matched]) -> None:
    """Where frames are blurred, too."""
    for clip in matched:
        wrong = flip(OPENGL) @ clip.cameras.world_to_camera
        sentence = clip.check(as_world_to_camera(clip.cameras, wrong))
        assert sentence is not None and "look like cameras in OpenGL axes" in sentence
        assert "negate the second and third columns" in sentence


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda w: torch.linalg.inv(w), "camera-to-world matrices, read as world-to-camera"),
        (lambda w: flip(PYTORCH3D) @ w, "cameras in PyTorch3D's axes"),
        (lambda w: torch.linalg.inv(flip(OPENGL) @ w), "camera-to-world matrices in OpenGL axes"),
        (lambda w: flip((1, -1, 1)) @ w @ flip((1, -1, 1)), "cameras in left-handed axes"),
    ],
)
def test_other_conventions_are_named(matched: list[Matched], wrong, words: str) -> None:
    """By the scene whose camera goes ahead, to the side, and turns; it may look alike in more than one."""
    clip = matched[0]
    sentence = clip.check(as_world_to_camera(clip.cameras, wrong(clip.cameras.world_to_camera)))
    assert sentence is not None and words in sentence


def test_mirrored_frames_are_named(clips: list[Clip]) -> None:
    frames = clips[0].frames.flip(-1)
    sentence = check_convention(frames, clips[0].cameras)
    assert sentence is not None and "mirrored frames" in sentence


def test_another_unit_is_told_where_one_is_agreed(matched: list[Matched]) -> None:
    """The scenes' median depth is 1; in centimetres it would be 100."""
    clip = matched[0]
    large = clip.cameras.world_to_camera.clone()
    large[:, :3, 3] *= 100
    sentence = clip.check(as_world_to_camera(clip.cameras, large), scene_depth=1.0)
    assert sentence is not None and "in another unit" in sentence
    factor = float(sentence.rsplit(" ", 1)[1])
    assert 60 < factor < 160
    assert clip.check(clip.cameras, scene_depth=1.0) is None
    assert clip.check(as_world_to_camera(clip.cameras, large)) is None


def test_intrinsics_that_are_no_pixels_are_told(clips: list[Clip]) -> None:
    """Without a look at the frames."""
    frames, cameras = torch.zeros_like(clips[0].frames), clips[0].cameras
    sides = torch.tensor([[96.0], [64.0], [1.0]])
    shares = replace(cameras, intrinsics=cameras.intrinsics / sides)
    assert "multiply the first row by the width" in (check_convention(frames, shares) or "")
    double = cameras.intrinsics.clone()
    double[:, :2] *= 8
    other = check_convention(frames, replace(cameras, intrinsics=double))
    assert other is not None and "for another image size" in other


def test_frames_that_tell_nothing_speak_against_nothing(clips: list[Clip]) -> None:
    cameras = clips[0].cameras
    wrong = as_world_to_camera(cameras, (flip(OPENGL) @ cameras.world_to_camera.double()).float())
    assert check_convention(torch.zeros_like(clips[0].frames), wrong) is None
    assert check_convention(clips[0].frames[:1], wrong.select(0)) is None
    with pytest.raises(UserError, match="9 frames but 8 cameras"):
        check_convention(clips[0].frames, cameras.select(range(8)))

"""TSED against the fundamental matrix written out here, in numpy's float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.frame_matches import FrameMatches, MatchConfig, match_frames
from eval.cameras.tsed import TsedConfig, tsed
from eval.scores.measured import NotAvailable

NEIGHBOURS = [(i, i + 1) for i in range(8)]


@pytest.fixture(scope="module")
def matches(moving_clip: Clip) -> Iterator[FrameMatches]:
    with match_frames(
        moving_clip.frames, moving_clip.cameras, MatchConfig(), pairs=NEIGHBOURS
    ) as found:
        yield found


def exactly_rigid(cameras: Cameras) -> Cameras:
    """The same cameras, their rotations orthonormal to float64's last digits."""
    to_world = cameras.camera_to_world.double()
    rotations = Rotation.from_matrix(to_world[:, :3, :3].numpy()).as_matrix()
    to_world[:, :3, :3] = torch.from_numpy(rotations)
    intrinsics = cameras.intrinsics.double()
    return Cameras.from_camera_to_world(to_world, intrinsics, cameras.height, cameras.width)


def fundamental(first: Cameras, second: Cameras) -> np.ndarray:
    """F = [e']x P' P+, from the projection matrices (Hartley and Zisserman, eq. 9.1)."""
    one, two = (
        (camera.intrinsics[0].double() @ camera.world_to_camera[0, :3].double()).numpy()
        for camera in (first, second)
    )
    centre = np.linalg.svd(one)[2][-1]
    x, y, z = two @ centre
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cross @ two @ np.linalg.pinv(one)


def distances(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of both points' distances from their epipolar lines, match by match."""
    found = []
    for one, two in zip(first, second, strict=True):
        a, b = np.array([*one, 1.0]), np.array([*two, 1.0])
        line, other = matrix @ a, matrix.T @ b
        residual = abs(b @ matrix @ a)
        found.append((residual / np.hypot(*line[:2]) + residual / np.hypot(*other[:2])) / 2)
    return np.array(found)


@pytest.mark.parametrize("degrees", [0.0, 1.0, 3.0, 8.0])
def test_it_is_what_the_fundamental_matrix_gives(
    moving_clip: Clip, matches: FrameMatches, perturb_cameras, degrees: float
) -> None:
    cameras = exactly_rigid(perturb_cameras(moving_clip.cameras, degrees, degrees / 20))
    medians = []
    for (i, j), (first, second) in zip(NEIGHBOURS, matches.matches(NEIGHBOURS), strict=True):
        matrix = fundamental(cameras.select(i), cameras.select(j))
        medians.append(float(np.median(distances(matrix, first.numpy(), second.numpy()))))
    found = tsed(moving_clip.frames, cameras, TsedConfig(), matches=matches)
    assert found.median_px == pytest.approx(medians, rel=1e-9)
    assert found.percent == 100 * np.mean(np.array(medians) < 2.0)
    assert found.typical_px == pytest.approx(np.median(medians), rel=1e-9)


def test_it_falls_as_cameras_are_perturbed(
    moving_clip: Clip, matches: FrameMatches, perturb_cameras
) -> None:
    found = [
        tsed(
            moving_clip.frames,
            perturb_cameras(moving_clip.cameras, degrees, degrees / 20),
            TsedConfig(),
            matches=matches,
        )
        for degrees in (0.0, 2.0, 5.0, 10.0)
    ]
    percents = [one.percent for one in found]
    assert percents[0] == 100 and percents[-1] <= 25
    assert percents == sorted(percents, reverse=True)
    typical = [one.typical_px for one in found]
    assert typical == sorted(typical) and typical[0] < 0.5


def test_thresholds_are_those_of_the_configuration(
    moving_clip: Clip, matches: FrameMatches
) -> None:
    counts = [len(first) for first, _ in matches.matches(NEIGHBOURS)]
    strict = TsedConfig(threshold_px=1e-3)
    assert tsed(moving_clip.frames, moving_clip.cameras, strict, matches=matches).percent == 0
    many = TsedConfig(least_matches=sorted(counts)[4] + 1)
    found = tsed(moving_clip.frames, moving_clip.cameras, many, matches=matches)
    assert found.num_matches == tuple(counts)
    assert found.unmatched == sum(count < many.least_matches for count in counts) >= 5
    assert found.percent == 100 * (8 - found.unmatched) / 8
    line = found.line()
    assert line["pairs"] == 8 and line["unmatched"] == found.unmatched
    assert line["median_px"].count(None) == found.unmatched


def test_a_still_picture_agrees_with_a_move_and_shows_that_it_is_still(moving_clip: Clip) -> None:
    """What TSED cannot see, reported beside it."""
    still = moving_clip.frames[:1].expand(3, -1, -1, -1)
    to_world = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    to_world[:, 0, 3] = torch.tensor([0.0, 0.2, 0.4])
    cameras = Cameras.from_camera_to_world(
        to_world, moving_clip.cameras.intrinsics[:3].double(), 64, 96
    )
    found = tsed(still, cameras, TsedConfig())
    assert found.percent == 100
    assert found.moved_px == pytest.approx(0, abs=1e-6)
    # It does not agree with a turn.
    turned = to_world.clone()
    angle = torch.tensor(0.2, dtype=torch.float64)
    turned[1, :3, :3] = torch.tensor(
        [[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]]
    )
    rolled = Cameras.from_camera_to_world(turned, cameras.intrinsics, 64, 96)
    assert tsed(still, rolled, TsedConfig()).percent == 0


def test_frames_without_matches_have_no_percentage(moving_clip: Clip) -> None:
    cameras = moving_clip.cameras.select(range(3))
    noise = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for frames in (torch.zeros(3, 3, 64, 96), noise):
        found = tsed(frames, cameras, TsedConfig())
        assert isinstance(found.percent, NotAvailable) and "none of 2 pairs" in found.percent.why
        assert isinstance(found.typical_px, NotAvailable)
        assert found.line()["percent"] == {"not_available": found.percent.why}
    alone = tsed(moving_clip.frames[:1], cameras.select(0), TsedConfig())
    assert isinstance(alone.percent, NotAvailable) and "only one" in alone.percent.why


def test_frames_and_cameras_have_to_fit(moving_clip: Clip) -> None:
    with pytest.raises(UserError, match="9 frames but 8 cameras"):
        tsed(moving_clip.frames, moving_clip.cameras.select(range(8)), TsedConfig())
    smaller = replace(moving_clip.cameras, height=32, width=48)
    with pytest.raises(UserError, match="frames are 64x96 but .* for 32x48"):
        tsed(moving_clip.frames, smaller, TsedConfig())

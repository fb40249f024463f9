"""Camera error from pixels alone: known cameras and perturbations, error bars, and no number without a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from eval.cameras.camera_error import CameraErrorConfig, camera_error
from eval.cameras.path_error import PathError
from eval.cameras.photometric import (
    FROM_FEATURES,
    ErrorBars,
    PhotometricCameraError,
    PhotometricConfig,
    alignment_error,
    epipolar_distance,
    photometric_camera_error,
)
from eval.scores.measured import NotAvailable
from train.alignment.direct import STILL, Alignment, AlignmentConfig

CONFIG = PhotometricConfig(
    alignment=AlignmentConfig(height=48, keyframes=3, gap=8, pixels=800, iterations=8)
)
VIEWS = range(9)


@pytest.fixture(scope="module")
def found(moving_clip: Clip) -> PhotometricCameraError:
    """Of the frames and their own cameras, without a start from features."""
    return photometric_camera_error(moving_clip.frames, moving_clip.cameras, CONFIG)


@pytest.fixture(scope="module")
def alignment(found: PhotometricCameraError) -> Alignment:
    assert found.alignment is not None
    return found.alignment


def known_error(wanted: Cameras, commanded: Cameras) -> tuple[float, float]:
    """Mean angle [deg] and distance [spans] of two paths, by scipy and numpy."""
    turns, ways = [], []
    for cameras in (wanted, commanded):
        to_world = np.linalg.inv(cameras.world_to_camera.double().numpy())
        relative = np.linalg.inv(to_world[0]) @ to_world
        turns.append(Rotation.from_matrix(relative[1:, :3, :3]))
        ways.append(relative[1:, :3, 3] / np.linalg.norm(relative[:, :3, 3], axis=1).max())
    angles = np.rad2deg((turns[0].inv() * turns[1]).magnitude())
    return float(angles.mean()), float(np.linalg.norm(ways[0] - ways[1], axis=1).mean())


def numbers(result: PhotometricCameraError) -> tuple[float, float, ErrorBars]:
    assert isinstance(result.error, PathError) and result.bars is not None
    assert isinstance(result.error.t_err, float)
    return result.error.r_err_deg, result.error.t_err, result.bars


def test_right_cameras_have_an_error_of_the_size_of_its_floor(
    found: PhotometricCameraError,
) -> None:
    rotation, translation, bars = numbers(found)
    assert rotation < 0.7 and translation < 0.06
    assert bars.t_floor is not None
    assert rotation < 3 * bars.r_floor_deg and translation < 3 * bars.t_floor
    assert bars.r_floor_deg < 1.5 and bars.t_floor < 0.15
    line = found.line()
    assert line["start"] == STILL and line["explained"] > 0.9 and line["placed"] == list(VIEWS)
    assert line["r_floor_deg"] == round(bars.r_floor_deg, 4) and line["moved_px"] > 2


@pytest.mark.parametrize(("degrees", "share"), [(5.0, 0.2), (10.0, 0.4)])
def test_a_known_perturbation_is_recovered(
    moving_clip: Clip,
    alignment: Alignment,
    perturb_cameras: Callable[..., Cameras],
    degrees: float,
    share: float,
) -> None:
    commanded = perturb_cameras(moving_clip.cameras, degrees, share)
    rotation, translation, bars = numbers(alignment_error(alignment, VIEWS, commanded, CONFIG))
    known = known_error(moving_clip.cameras, commanded)
    assert rotation == pytest.approx(known[0], rel=0.05)
    assert translation == pytest.approx(known[1], rel=0.05)
    assert abs(rotation - known[0]) < 2 * bars.r_err_deg
    assert bars.t_err is not None and abs(translation - known[1]) < 2 * bars.t_err


def test_errors_are_what_scipy_makes_of_the_cameras_found(
    moving_clip: Clip, alignment: Alignment, perturb_cameras: Callable[..., Cameras]
) -> None:
    commanded = perturb_cameras(moving_clip.cameras, 3, 0.3, seed=1)
    rotation, translation, _ = numbers(alignment_error(alignment, VIEWS, commanded, CONFIG))
    expected = known_error(alignment.cameras, commanded)
    assert (rotation, translation) == pytest.approx(expected, rel=1e-5)


def test_it_never_looks_at_the_commanded_poses(
    moving_clip: Clip, perturb_cameras: Callable[..., Cameras]
) -> None:
    quick = PhotometricConfig(
        alignment=CONFIG.alignment.model_copy(update={"iterations": 2}), least_explained=0.01
    )
    frames, cameras = moving_clip.frames, moving_clip.cameras
    one = photometric_camera_error(frames, cameras, quick).alignment
    two = photometric_camera_error(frames, perturb_cameras(cameras, 8, 0.4), quick).alignment
    assert one is not None and two is not None
    assert torch.equal(one.cameras.world_to_camera, two.cameras.world_to_camera)


def test_what_features_found_is_a_start(moving_clip: Clip) -> None:
    """Frames that were not placed start as their nearest."""
    frames = moving_clip.frames.clone()
    frames[4] = frames[4].mean() + 0.05 * torch.linspace(-1, 1, 96)  # fog: no feature
    placed = camera_error(frames, moving_clip.cameras, CameraErrorConfig())
    assert 4 not in placed.placed and len(placed.placed) >= 6
    result = photometric_camera_error(
        moving_clip.frames, moving_clip.cameras, CONFIG, placed=placed
    )
    rotation, translation, _ = numbers(result)
    assert rotation < 0.7 and translation < 0.06
    assert result.line()["start"] in (FROM_FEATURES, STILL)


def test_pixels_lie_where_the_right_cameras_allow_them_to(
    moving_clip: Clip, alignment: Alignment, perturb_cameras: Callable[..., Cameras]
) -> None:
    right = epipolar_distance(alignment, moving_clip.cameras)
    wrong = epipolar_distance(alignment, perturb_cameras(moving_clip.cameras, 10, 0.4))
    assert right < 0.1 and wrong > 1


def test_a_camera_at_rest_is_as_far_off_as_the_path_is_long(moving_clip: Clip) -> None:
    """A still picture of a moving command: the noise of its cameras is not blown up."""
    frames = moving_clip.frames[:1].expand(9, -1, -1, -1)
    quick = PhotometricConfig(alignment=CONFIG.alignment.model_copy(update={"iterations": 3}))
    result = photometric_camera_error(frames, moving_clip.cameras, quick)
    assert isinstance(result.error, PathError)
    wanted = moving_clip.cameras.relative_to(0).positions.norm(dim=-1)
    assert result.error.t_err == pytest.approx(float((wanted / wanted.max())[1:].mean()), abs=1e-4)
    assert result.bars is not None and result.bars.t_floor is None


def test_bars_grow_with_the_covariance_until_moving_is_not_told_from_turning(
    moving_clip: Clip, alignment: Alignment
) -> None:
    bars = []
    for factor in (1.0, 4.0):
        uncertain = replace(alignment, covariance=factor * alignment.covariance)
        bars.append(numbers(alignment_error(uncertain, VIEWS, moving_clip.cameras, CONFIG))[2])
    assert bars[1].r_floor_deg == pytest.approx(2 * bars[0].r_floor_deg, rel=0.05)
    lost = replace(alignment, covariance=1e4 * alignment.covariance)
    result = alignment_error(lost, VIEWS, moving_clip.cameras, CONFIG)
    assert isinstance(result.error, PathError) and isinstance(result.error.t_err, NotAvailable)
    assert "do not tell moving from turning" in result.error.t_err.why
    line = result.line()
    assert line["t_err"] == {"not_available": result.error.t_err.why}
    assert isinstance(line["r_err_deg"], float) and line["t_floor"] is None


def not_available(result: PhotometricCameraError) -> str:
    """The reason; every number of the line gives it too."""
    assert isinstance(result.error, NotAvailable)
    assert result.found is None and result.bars is None
    line = result.line()
    for name in ("r_err_deg", "r_err_rad", "t_err", "translation"):
        assert line[name] == {"not_available": result.error.why}
    return result.error.why


def test_there_is_no_number_without_a_scene(moving_clip: Clip) -> None:
    cameras = moving_clip.cameras
    black = torch.zeros_like(moving_clip.frames)
    why = not_available(photometric_camera_error(black, cameras, CONFIG))
    assert "9 of 9 frames are of one colour" in why
    alone = photometric_camera_error(moving_clip.frames[:1], cameras.select(0), CONFIG)
    assert "this clip has 1" in not_available(alone)
    noise = torch.rand(black.shape, generator=torch.Generator().manual_seed(0))
    quick = PhotometricConfig(alignment=CONFIG.alignment.model_copy(update={"iterations": 3}))
    result = photometric_camera_error(noise, cameras, quick)
    assert "less than least_explained = 75%" in not_available(result)
    assert result.line()["explained"] < 0.3


def test_frames_and_cameras_have_to_fit(moving_clip: Clip) -> None:
    with pytest.raises(UserError, match="9 frames but 8 cameras"):
        photometric_camera_error(moving_clip.frames, moving_clip.cameras.select(range(8)), CONFIG)

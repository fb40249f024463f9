"""R_err and T_err from features: against scipy's arithmetic on known cameras, and no number where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from eval.cameras.camera_error import (
    CameraError,
    CameraErrorConfig,
    camera_error,
    is_blank,
    placement_error,
)
from eval.cameras.path_error import PathError
from eval.scores.measured import NotAvailable
from eval.trials.captures import read_capture_views, size_with_long_side

CONFIG = CameraErrorConfig()
CAPTURES = Path(__file__).resolve().parents[4] / "shared/scenes"


@pytest.fixture(scope="module")
def found(moving_clip: Clip) -> CameraError:
    """Of the frames and their own cameras."""
    return camera_error(moving_clip.frames, moving_clip.cameras, CONFIG)


def errors(
    found: Cameras, wanted: Cameras, views: list[int]
) -> tuple[list[float], list[float], float, float]:
    """Angles [deg] and distances [spans] of each view after the first, and their means; by scipy and numpy."""
    angles, places = [], []
    turns, ways = [], []
    for cameras in (found, wanted.select(views)):
        to_world = np.linalg.inv(cameras.world_to_camera.double().numpy())
        first = np.linalg.inv(to_world[0])
        relative = first @ to_world
        turns.append(Rotation.from_matrix(relative[:, :3, :3]))
        ways.append(relative[:, :3, 3] / np.linalg.norm(relative[:, :3, 3], axis=1).max())
    for view in range(1, len(views)):
        angles.append(np.rad2deg((turns[0][view].inv() * turns[1][view]).magnitude()))
        places.append(np.linalg.norm(ways[0][view] - ways[1][view]))
    return angles, places, float(np.mean(angles)), float(np.mean(places))


def test_right_cameras_have_next_to_no_error(found: CameraError) -> None:
    assert isinstance(found.error, PathError)
    assert found.registration_rate == 1 and found.placed == tuple(range(9))
    assert found.error.r_err_deg < 0.5 and found.error.t_err < 0.03
    line = found.line()
    assert line["registration_rate"] == 1 and line["placed"] == list(range(9))
    assert line["points"] > 100 and 0 < line["reprojection_error_px"] < 0.5


def test_errors_are_what_scipy_makes_of_the_cameras_found(
    moving_clip: Clip, found: CameraError, perturb_cameras: Callable[..., Cameras]
) -> None:
    assert found.placement is not None
    for degrees, share in ((0.0, 0.0), (5.0, 0.0), (0.0, 0.2), (20.0, 0.5)):
        commanded = perturb_cameras(moving_clip.cameras, degrees, share, seed=3)
        error = placement_error(found.placement, commanded, CONFIG)
        assert isinstance(error, PathError)
        angles, places, angle, place = errors(found.placement.cameras, commanded, list(range(9)))
        assert error.rotation_deg == pytest.approx(angles, abs=1e-5)
        assert error.translation == pytest.approx(places, abs=1e-6)
        assert error.r_err_deg == pytest.approx(angle) and error.t_err == pytest.approx(place)


@pytest.mark.parametrize(("degrees", "share"), [(5.0, 0.1), (10.0, 0.4)])
def test_a_known_perturbation_is_recovered(
    moving_clip: Clip,
    found: CameraError,
    perturb_cameras: Callable[..., Cameras],
    degrees: float,
    share: float,
) -> None:
    assert found.placement is not None
    commanded = perturb_cameras(moving_clip.cameras, degrees, share)
    *_, known_angle, known_place = errors(moving_clip.cameras, commanded, list(range(9)))
    error = placement_error(found.placement, commanded, CONFIG)
    assert isinstance(error, PathError)
    assert error.r_err_deg == pytest.approx(known_angle, rel=0.05)
    assert error.t_err == pytest.approx(known_place, rel=0.05)


def test_it_never_looks_at_the_commanded_poses(
    moving_clip: Clip, found: CameraError, perturb_cameras: Callable[..., Cameras]
) -> None:
    """From frames to numbers with wrong cameras: the same placement, bit for bit."""
    commanded = perturb_cameras(moving_clip.cameras, 8, 0.3)
    again = camera_error(moving_clip.frames, commanded, CONFIG)
    assert found.placement is not None and again.placement is not None
    assert torch.equal(
        again.placement.cameras.world_to_camera, found.placement.cameras.world_to_camera
    )
    assert again.error == placement_error(found.placement, commanded, CONFIG)


def not_available(result: CameraError) -> str:
    """The reason; every number of the line gives it too."""
    assert isinstance(result.error, NotAvailable)
    line = result.line()
    for name in ("r_err_deg", "r_err_rad", "t_err", "t_err_sum", "rotation_deg"):
        assert line[name] == {"not_available": result.error.why}
    assert line["registration_rate"] == len(result.placed) / result.num_frames
    return result.error.why


def test_frames_that_show_nothing(moving_clip: Clip) -> None:
    cameras = moving_clip.cameras
    black = torch.zeros_like(moving_clip.frames)
    assert "9 of 9 frames are of one colour" in not_available(camera_error(black, cameras, CONFIG))
    assert is_blank(black[0] + 0.7) and not is_blank(moving_clip.frames[0])
    dust = black[0].clone()
    dust[:, 0, :20] = 1
    assert is_blank(dust)
    fog = 0.5 + 0.05 * torch.linspace(0, 1, 96).expand(9, 3, 64, 96)
    why = not_available(camera_error(fog, cameras, CONFIG))
    assert "fewer than 30 features in 9 of 9 frames" in why and "photometric" in why


def test_frames_that_have_nothing_in_common(moving_clip: Clip) -> None:
    noise = torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    strangers = torch.stack([make_clip(seed, one_frame()).frames[0] for seed in range(3)])
    for frames in (noise, strangers):
        result = camera_error(frames, moving_clip.cameras.select(range(len(frames))), CONFIG)
        assert "no two of" in not_available(result) or "placed only" in not_available(result)
        assert result.registration_rate < 0.5


def one_frame() -> SceneConfig:
    return SceneConfig(num_frames=2, num_near=0, num_far=0)


def test_too_few_frames(moving_clip: Clip) -> None:
    for count in (1, 2):
        result = camera_error(
            moving_clip.frames[:count], moving_clip.cameras.select(range(count)), CONFIG
        )
        assert f"this clip has {count}" in not_available(result)
        assert result.registration_rate == 0


def test_only_frames_that_belong_together_count(moving_clip: Clip) -> None:
    """Three of nine frames black: the rest has an error of its own, or none if more was asked for."""
    frames = moving_clip.frames.clone()
    frames[[0, 4, 8]] = 0
    result = camera_error(frames, moving_clip.cameras, CONFIG)
    assert isinstance(result.error, PathError)
    assert result.placed == result.error.views == (1, 2, 3, 5, 6, 7)
    assert result.line()["registration_rate"] == round(6 / 9, 4)
    assert result.error.r_err_deg < 1 and result.error.t_err < 0.1
    assert result.placement is not None
    strict = CameraErrorConfig(least_placed=0.9)
    why = placement_error(result.placement, moving_clip.cameras, strict)
    assert isinstance(why, NotAvailable) and "placed only 6 of 9 frames" in why.why


def test_intrinsics_may_be_estimated(moving_clip: Clip) -> None:
    """From focal lengths that are a tenth too long, which held fixed would cost accuracy."""
    longer = moving_clip.cameras.intrinsics.double().clone()
    truth = float(longer[0, 0, 0])
    longer[:, [0, 1], [0, 1]] *= 1.1
    wrong = replace(moving_clip.cameras.to(torch.float64), intrinsics=longer)
    held = camera_error(moving_clip.frames, wrong, CONFIG)
    assert held.found is not None and torch.allclose(held.found.intrinsics, longer)
    free = camera_error(moving_clip.frames, wrong, CameraErrorConfig(intrinsics="estimated"))
    assert free.found is not None
    focal = float(free.found.intrinsics[0, 0, 0])
    assert focal != pytest.approx(1.1 * truth, rel=0.01)


def test_frames_and_cameras_have_to_fit(moving_clip: Clip) -> None:
    with pytest.raises(UserError, match="9 frames but 4 cameras"):
        camera_error(moving_clip.frames, moving_clip.cameras.select(range(4)), CONFIG)
    with pytest.raises(UserError, match="frames are 64x96"):
        camera_error(
            moving_clip.frames, replace(moving_clip.cameras, height=128, width=192), CONFIG
        )


def test_a_known_perturbation_of_a_real_captures_cameras_is_recovered(
    perturb_cameras: Callable[..., Cameras],
) -> None:
    """Ten photographs of 400x400, within 5%; the validation report has all four captures."""
    path = CAPTURES / "mary_rose_tankard"
    if not path.is_dir():
        pytest.skip(f"{path.name} is not here")
    clip = read_capture_views(path, size_with_long_side(path, 400), 10)
    result = camera_error(clip.frames, clip.cameras, CONFIG)
    assert result.placement is not None and result.registration_rate == 1
    for degrees, share in ((2.0, 0.1), (10.0, 0.4)):
        commanded = perturb_cameras(clip.cameras, degrees, share)
        *_, known_angle, known_place = errors(clip.cameras, commanded, list(range(10)))
        error = placement_error(result.placement, commanded, CONFIG)
        assert isinstance(error, PathError)
        assert error.r_err_deg == pytest.approx(known_angle, rel=0.05)
        assert error.t_err == pytest.approx(known_place, rel=0.05)

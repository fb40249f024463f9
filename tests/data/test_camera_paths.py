"""Camera paths against what their words mean, with scipy's rotations and plain projection as the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.camera_paths import EASINGS, PATHS, Segment, join_paths, list_paths, make_path
from data.cameras import Cameras, intrinsics_from_fov

HEIGHT, WIDTH = 64, 96
PIVOT = torch.tensor([[0.0, 0, 1]], dtype=torch.float64)


def base_camera() -> Cameras:
    matrix = intrinsics_from_fov(50.0, HEIGHT, WIDTH).double()[None]
    return Cameras(torch.eye(4, dtype=torch.float64)[None], matrix, HEIGHT, WIDTH)


def turned_camera() -> Cameras:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
    transform[:3, 3] = torch.tensor([3.0, -2, 5])
    base = base_camera()
    return Cameras(transform[None], base.intrinsics, HEIGHT, WIDTH)


def last(name: str, amplitude: float | None = None) -> Cameras:
    """The end of a path that starts at the identity."""
    return make_path(name, base_camera(), 5, amplitude).select(-1)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_starts_at_its_base_and_is_rigid(name: str, dtype: torch.dtype) -> None:
    base = turned_camera().to(dtype)
    path = make_path(name, base, 17)
    assert len(path) == 17 and path.world_to_camera.dtype == dtype
    assert torch.equal(path.world_to_camera[0], base.world_to_camera[0])
    assert torch.equal(path.intrinsics[0], base.intrinsics[0])
    path.validate(name)
    rotation = path.world_to_camera[:, :3, :3].double()
    error = rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)
    assert error.abs().max() < (1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_every_path_moves_evenly_and_without_jumps(name: str) -> None:
    """No step is more than three times the mean step, in the pixels of a point behind the pivot."""
    path = make_path(name, base_camera(), 33)
    points = torch.tensor([[0.2, 0.1, 2.0]], dtype=torch.float64)
    pixels, depths = path.project(points)
    assert bool((depths > 0).all())
    steps = pixels[:, 0].diff(dim=0).norm(dim=-1)
    assert steps.max() < 3 * steps.mean() and steps.mean() > 0.03


@pytest.mark.parametrize("name", PATHS)
def test_a_path_moves_with_its_base(name: str) -> None:
    """In the base camera's own axes the path is the same wherever the base stands."""
    here, there = make_path(name, base_camera(), 9), make_path(name, turned_camera(), 9)
    torch.testing.assert_close(
        there.relative_to(0).world_to_camera, here.relative_to(0).world_to_camera
    )
    torch.testing.assert_close(there.intrinsics, here.intrinsics)


def test_a_negative_amplitude_goes_the_other_way() -> None:
    for name, opposite in (
        ("truck", [-0.3, 0, 0]),
        ("pedestal", [0, 0.2, 0]),
        ("dolly", [0, 0, -0.3]),
    ):
        default = PATHS[name].amplitude
        np.testing.assert_allclose(last(name, -default).positions[0], opposite, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dolly", [0, 0, 0.25]), ("truck", [0.25, 0, 0]), ("pedestal", [0, -0.25, 0])],
)
def test_shifts_by_hand(name: str, expected: list[float]) -> None:
    """Right is +x, up is -y, forward is +z; the camera does not turn."""
    end = last(name, 0.25)
    np.testing.assert_allclose(end.positions[0], expected, atol=1e-12)
    assert torch.equal(end.world_to_camera[0, :3, :3], torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "axis"), [("pan", [0, 1, 0]), ("tilt", [1, 0, 0]), ("roll", [0, 0, 1])]
)
def test_turns_are_scipys_rotations(name: str, axis: list[float]) -> None:
    end = last(name, 25.0)
    expected = Rotation.from_rotvec(np.deg2rad(25) * np.array(axis)).as_matrix()
    np.testing.assert_allclose(end.camera_to_world[0, :3, :3], expected, atol=1e-12)
    np.testing.assert_allclose(end.positions[0], 0, atol=1e-12)


def test_turns_go_where_their_words_say() -> None:
    """When the camera turns right, what was ahead moves left in the picture, and so on."""
    centre = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
    right = last("pan", 10).project(PIVOT)[0][0, 0] - centre
    up = last("tilt", 10).project(PIVOT)[0][0, 0] - centre
    assert right[0] < -5 and abs(right[1]) < 1e-9
    assert up[1] > 5 and abs(up[0]) < 1e-9
    above = torch.tensor([[0.0, -0.2, 1]], dtype=torch.float64)
    leaning = last("roll", 10).project(above)[0][0, 0] - centre
    assert leaning[0] < -1, "the camera leans clockwise, so the picture turns anticlockwise"


@pytest.mark.parametrize("name", ["orbit", "spiral", "crane", "dolly", "dolly_zoom"])
def test_paths_that_look_at_the_pivot_keep_it_in_the_middle(name: str) -> None:
    pixels, depths = make_path(name, base_camera(), 9).project(PIVOT)
    expected = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64).expand(9, 2)
    torch.testing.assert_close(pixels[:, 0], expected)
    assert bool((depths > 0).all())


def test_an_orbit_is_a_circle_about_the_pivot() -> None:
    path = make_path("orbit", base_camera(), 13, 60)
    arms = (path.positions - PIVOT).numpy()
    np.testing.assert_allclose(np.linalg.norm(arms, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(arms[:, 1], 0, atol=1e-12)
    angles = np.degrees(np.arctan2(arms[:, 0], -arms[:, 2]))
    np.testing.assert_allclose(angles, np.linspace(0, 60, 13), atol=1e-9)
    assert path.positions[-1, 0] == pytest.approx(math.sin(math.radians(60))), "to the right"


def test_a_full_orbit_comes_home() -> None:
    path = make_path("orbit", turned_camera(), 25, 360)
    torch.testing.assert_close(path.world_to_camera[-1], path.world_to_camera[0])


def test_dolly_zoom_keeps_the_subjects_size_and_changes_the_rest() -> None:
    path = make_path("dolly_zoom", base_camera(), 9, 0.5)
    width = [[-0.2, 0, 1], [0.2, 0, 1], [-0.2, 0, 3], [0.2, 0, 3]]
    pixels, _ = path.project(torch.tensor(width, dtype=torch.float64))
    subject = pixels[:, 1, 0] - pixels[:, 0, 0]
    torch.testing.assert_close(subject, subject[:1].expand(9))
    behind = pixels[:, 3, 0] - pixels[:, 2, 0]
    assert bool((behind.diff() < 0).all()), "what is behind shrinks as the view widens"
    assert torch.equal(
        path.intrinsics[:, :2, 2], base_camera().intrinsics.expand(9, 3, 3)[:, :2, 2]
    )


def test_crane_and_spiral_by_hand() -> None:
    np.testing.assert_allclose(last("crane", 0.4).positions[0], [0, -0.4, 0], atol=1e-12)
    spiral = make_path("spiral", base_camera(), 9, 0.2).positions
    np.testing.assert_allclose(spiral.norm(dim=-1), np.linspace(0, 0.2, 9), atol=1e-12)
    assert spiral[2, 0] > 0 and spiral[6, 0] < 0, "right, then left, of where it started"
    assert spiral[:, 2].abs().max() < 1e-12


def test_no_path_but_roll_leans() -> None:
    """The camera's right stays level: no component along the base camera's down."""
    for name in PATHS:
        right = make_path(name, base_camera(), 9).camera_to_world[:, :3, 0]
        assert (right[:, 1].abs().max() < 1e-9) == (name != "roll"), name


@pytest.mark.parametrize("easing", EASINGS)
def test_easing_keeps_both_ends(easing: str) -> None:
    path = make_path("truck", base_camera(), 9, 0.8, easing=easing).positions[:, 0]
    assert path[0] == 0 and path[-1] == pytest.approx(0.8)
    steps = path.diff()
    assert bool((steps > 0).all())
    slow_start, slow_end = bool(steps[0] < steps[4] * 0.7), bool(steps[-1] < steps[4] * 0.7)
    assert (slow_start, slow_end) == {
        "linear": (False, False),
        "smooth": (True, True),
        "ease_in": (True, False),
        "ease_out": (False, True),
    }[easing]


def test_joined_paths_go_on_where_the_last_one_ended() -> None:
    segments = [Segment("pan", 90), Segment("dolly", 0.4), Segment("roll", 30, share=2)]
    path = join_paths(segments, base_camera(), 9)
    assert path.positions[:3].abs().max() < 1e-12
    # After a quarter turn to the right, forward is the base camera's right.
    np.testing.assert_allclose(path.positions[4:], [[0.4, 0, 0]] * 5, atol=1e-12)
    np.testing.assert_allclose(path.positions[3], [0.2, 0, 0], atol=1e-12)
    turn = Rotation.from_matrix(
        (path.world_to_camera[4, :3, :3] @ path.camera_to_world[8, :3, :3]).numpy()
    )
    np.testing.assert_allclose(turn.as_rotvec(degrees=True), [0, 0, 30], atol=1e-9)


def test_joining_one_path_changes_nothing() -> None:
    alone = make_path("orbit", turned_camera(), 9)
    joined = join_paths([Segment("orbit")], turned_camera(), 9)
    assert torch.equal(alone.world_to_camera, joined.world_to_camera)


def test_paths_are_listed_with_unit_and_default() -> None:
    listed = list_paths()
    assert set(listed) == set(PATHS) >= {"orbit", "dolly", "spiral"}
    assert "degrees, default 30" in listed["orbit"]
    assert all("\n" not in line for line in listed.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("orbti", 9), "there is no camera path 'orbti'; did you mean 'orbit'"),
        (("", 9), r"there is no camera path '' \(known: orbit, dolly"),
        (("orbit", 1), "at least 2 views, 1 were asked for"),
        (("orbit", 9, math.nan), "amplitude of camera path 'orbit' is nan degrees"),
        (("orbit", 9, math.inf), "expected between -360 and 360"),
        (("dolly_zoom", 9, 1.0), "is 1.0 scene units, expected between -0.9 and 0.9"),
    ],
)
def test_what_cannot_be_a_path_is_refused(arguments: tuple[object, ...], message: str) -> None:
    name, num_views, *amplitude = arguments
    with pytest.raises(UserError, match=message):
        make_path(name, base_camera(), num_views, *amplitude)  # type: ignore[arg-type]


def test_other_mistakes_are_refused() -> None:
    path = make_path("orbit", base_camera(), 3)
    with pytest.raises(UserError, match="starts from 1 camera"):
        make_path("orbit", path, 3)
    with pytest.raises(UserError, match="no easing 'smoth'; did you mean 'smooth'"):
        make_path("orbit", base_camera(), 3, easing="smoth")
    with pytest.raises(UserError, match="at least one segment"):
        join_paths([], base_camera(), 3)
    with pytest.raises(UserError, match="share of camera path 'pan' is 0"):
        join_paths([Segment("pan", share=0)], base_camera(), 3)

"""Direct alignment: its equations against autograd, its cameras against those that rendered the frames."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from data.cameras import Cameras, invert_rigid
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from train.alignment.direct import STILL, AlignmentConfig, align_frames
from train.alignment.pixels import AlignmentState, PixelPairs
from train.alignment.step import (
    DepthPrior,
    expose,
    misfit,
    normal_equations,
    pixel_slopes,
    rigid_exponential,
    robust_scale,
    solve,
)
from train.alignment.uncertainty import pose_covariance, sample_poses, scale_direction

SMALL = AlignmentConfig(height=48, keyframes=3, gap=8, pixels=800)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Nine frames of 48x72 whose camera goes sideways by 0.21 median depths and turns by 1 degree."""
    return make_clip(
        950_000_011,
        SceneConfig(height=48, width=72, num_frames=9, num_near=0, num_far=0, travel=(0.2, 0.25)),
    )


@pytest.fixture(scope="module")
def problem(clip: Clip) -> tuple[PixelPairs, AlignmentState]:
    """A keyframe's pixels in two other frames, at the true poses and slightly wrong depths."""
    frames = clip.frames[[0, 3, 6]]
    cameras = clip.cameras.select([0, 3, 6])
    pixels = PixelPairs(frames, cameras, [0, 1], 2, 60)
    assert clip.depth is not None
    inverse = pixels.gather(1 / clip.depth[[0, 3]])
    poses = cameras.to(torch.float64).relative_to(0).world_to_camera
    gain = torch.tensor([1.0, 1.1, 0.9])
    return pixels, AlignmentState(poses, inverse * 1.1, gain, torch.tensor([0.0, 0.02, -0.01]))


def errors(found: Cameras, truth: Cameras) -> tuple[float, float]:
    """Mean rotation error [deg] and mean position error in spans, both relative to the first camera."""
    paths = [one.to(torch.float64).relative_to(0).camera_to_world for one in (found, truth)]
    turns = Rotation.from_matrix((paths[0][:, :3, :3].mT @ paths[1][:, :3, :3]).numpy())
    places = [path[:, :3, 3] / path[:, :3, 3].norm(dim=-1).max() for path in paths]
    return (
        math.degrees(turns.magnitude()[1:].mean()),
        float((places[0] - places[1]).norm(dim=-1)[1:].mean()),
    )


def test_the_twist_of_a_pose_is_a_matrix_exponential() -> None:
    twist = torch.tensor([[0.3, -0.2, 0.5, 0.4, 0.1, -0.7]], dtype=torch.float64)
    found = rigid_exponential(twist)[0]
    rotation = Rotation.from_rotvec(twist[0, 3:].numpy()).as_matrix()
    assert torch.allclose(found[:3, :3], torch.from_numpy(rotation), atol=1e-12)
    half = rigid_exponential(twist / 2)[0]
    assert torch.allclose(half @ half, found, atol=1e-12)


def test_pixels_fall_where_their_points_are_seen(clip: Clip) -> None:
    """By the true depth and poses, in every frame, at the same colour."""
    pixels = PixelPairs(clip.frames, clip.cameras, [0], 8, 300)
    assert clip.depth is not None
    state = AlignmentState(
        clip.cameras.world_to_camera.double(),
        pixels.gather(1 / clip.depth[[0]]),
        torch.ones(9),
        torch.zeros(9),
    )
    look = pixels.look_up(state)
    rows, columns = pixels.chosen[0] // 72, pixels.chosen[0] % 72
    origins, rays = clip.cameras.select(0).rays()
    along = rays[0, rows, columns]
    depth = clip.depth[0, rows, columns]
    points = origins[0] + along / along[:, 2:] * depth[:, None]
    expected, _ = clip.cameras.project(points)
    for pair, other in enumerate(pixels.others.tolist()):
        assert torch.allclose(look.places[pair], expected[other], atol=1e-3)
    residuals = pixels.residuals(look, state).abs().mean(dim=1)
    assert float(residuals[look.seen].median()) < 0.03


def test_normal_equations_are_the_derivatives_of_the_misfit(problem) -> None:
    """By autograd, through a float64 rendering of the same formula, weights held fixed."""
    pixels, state = problem
    look = pixels.look_up(state)
    scale = 0.05
    squares = pixels.residuals(look, state).square().sum(1)
    weights = (look.seen / (1 + squares / (5 * scale**2)) / scale**2).double()
    slopes = (look.slopes * state.gain[pixels.others][:, None, None, None]).double()
    base = pixels.residuals(look, state).double()

    def weighted(twists: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Residuals, with frames that change linearly around where the pixels fall, times root weights."""
        moves = torch.cat([torch.zeros(1, 6, dtype=torch.float64), twists.unflatten(0, (2, 6))])
        poses = rigid_exponential(moves) @ state.world_to_camera
        relative = poses[pixels.others] @ torch.linalg.inv(poses)[pixels.keys]
        points = pixels.rays.double() @ relative[:, :3, :3].mT
        points = points + inverse[pixels.rows][..., None] * relative[:, None, :3, 3]
        places = pixels.focal.double() * points[..., :2] / points[..., 2:] + pixels.centre.double()
        moved = (places - look.places.double()).movedim(-1, 1)
        values = base + (slopes * moved[:, :, None]).sum(1)
        return (values * weights.sqrt()[:, None]).flatten()

    at = (torch.zeros(12, dtype=torch.float64), state.inverse_depth.double())
    by_twist, by_depth = torch.autograd.functional.jacobian(weighted, at)
    residuals = weighted(*at)
    by_depth = by_depth.flatten(1)
    found = normal_equations(pixels, state, look, scale)
    pairs = [
        (found.poses, by_twist.T @ by_twist),
        (found.pose_slopes, by_twist.T @ residuals),
        (found.cross.flatten(0, 1), by_depth.T @ by_twist),
        (found.depths.flatten(), (by_depth.square()).sum(0)),
        (found.depth_slopes.flatten(), by_depth.T @ residuals),
        (pixel_slopes(pixels, state, look, scale).sum((0, 1)), by_twist.T @ residuals),
    ]
    for ours, truth in pairs:
        assert (ours.double() - truth).abs().max() < 2e-4 * truth.abs().max()


def test_a_step_is_that_of_the_whole_system(problem) -> None:
    """Depths eliminated one by one give what all unknowns give together."""
    pixels, state = problem
    look, scale = pixels.look_up(state), 0.05
    equations = normal_equations(pixels, state, look, scale)
    prior = DepthPrior(state.inverse_depth - 0.01, 0.5)
    damping = 0.01
    depths = (equations.depths.double() + 4).flatten()
    cross = equations.cross.flatten(0, 1).double()
    whole = torch.cat(
        [
            torch.cat([equations.poses, cross.T], dim=1),
            torch.cat([cross, torch.diag(depths)], dim=1),
        ]
    )
    whole = whole + torch.diag(damping * whole.diagonal())
    slopes = torch.cat(
        [
            equations.pose_slopes,
            (equations.depth_slopes.double() + 4 * 0.01).flatten(),
        ]
    )
    expected = -torch.linalg.solve(whole, slopes)
    moved = solve(equations, state, prior, damping)
    steps = moved.inverse_depth - state.inverse_depth
    assert torch.allclose(steps.flatten().double(), expected[12:].clamp(-0.3, 0.3), atol=2e-4)
    twists = rigid_exponential(expected[:12].unflatten(0, (2, 6)))
    assert torch.allclose(moved.world_to_camera[1:], twists @ state.world_to_camera[1:], atol=1e-4)
    assert torch.equal(moved.world_to_camera[0], torch.eye(4, dtype=torch.float64))


def test_exposure_is_found(clip: Clip) -> None:
    """A frame that is darker and has less contrast than the first."""
    frames = clip.frames[[0, 1, 2]].clone()
    frames[1] = frames[1] * 0.8 + 0.05
    pixels = PixelPairs(frames, clip.cameras.select([0, 1, 2]), [0], 2, 400)
    assert clip.depth is not None
    poses = clip.cameras.select([0, 1, 2]).world_to_camera.double()
    state = AlignmentState(poses, pixels.gather(1 / clip.depth[[0]]), torch.ones(3), torch.zeros(3))
    found = expose(pixels, state, robust_scale(pixels, state))
    assert float(found.gain[1]) == pytest.approx(1 / 0.8, rel=0.02)
    assert float(found.bias[1]) == pytest.approx(-0.05 / 0.8, abs=0.01)
    assert float(found.gain[0]) == 1 and float(found.bias[0]) == 0
    assert float(found.gain[2]) == pytest.approx(1, rel=0.05)


def test_looking_away_gains_nothing(problem) -> None:
    """The misfit of poses under which hardly a pixel is seen is no lower than that of the true ones."""
    pixels, state = problem
    prior = DepthPrior(state.inverse_depth, 0.5)
    away = state.world_to_camera.clone()
    away[1:] = rigid_exponential(torch.tensor([[0, 0, 0, 0, 0.6, 0.0]] * 2).double()) @ away[1:]
    true = misfit(pixels, state, prior, 0.02)
    assert misfit(pixels, replace(state, world_to_camera=away), prior, 0.02) > true


def test_cameras_are_found_from_nothing_and_from_wrong_ones(clip: Clip) -> None:
    """Standing still as the start; and cameras that are 4 degrees and 0.3 spans off, which must not be believed."""
    found = align_frames(clip.frames, clip.cameras, SMALL)
    rotation, position = errors(found.cameras, clip.cameras)
    assert rotation < 0.5 and position < 0.06
    assert found.start == STILL and found.explained > 0.9

    generator = torch.Generator().manual_seed(0)
    twists = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    twists[:, :3] *= 0.3 * 0.22 / twists[:, :3].norm(dim=-1, keepdim=True)
    twists[:, 3:] *= math.radians(4) / twists[:, 3:].norm(dim=-1, keepdim=True)
    poses = clip.cameras.world_to_camera.double()
    wrong = replace(
        clip.cameras.to(torch.float64), world_to_camera=rigid_exponential(twists) @ poses
    )
    assert errors(wrong, clip.cameras)[0] > 4
    started = align_frames(clip.frames, clip.cameras, SMALL, {"wrong": wrong, STILL: None})
    rotation, position = errors(started.cameras, clip.cameras)
    assert rotation < 0.5 and position < 0.06
    again = align_frames(clip.frames, clip.cameras, SMALL, {"wrong": wrong, STILL: None})
    assert torch.equal(started.cameras.world_to_camera, again.cameras.world_to_camera)


def test_a_start_that_sees_little_in_common_is_not_taken(clip: Clip) -> None:
    """Cameras that turn up by 9 degrees a frame find few and smooth places to compare: the lower misfit of the two."""
    twists = torch.zeros(9, 6, dtype=torch.float64)
    twists[:, 3] = math.radians(9) * torch.arange(9)
    poses = rigid_exponential(twists) @ clip.cameras.world_to_camera.double()
    away = replace(clip.cameras.to(torch.float64), world_to_camera=poses)
    quick = SMALL.model_copy(update={"iterations": 4})
    found = align_frames(clip.frames, clip.cameras, quick, {"away": away, STILL: None})
    assert found.start == STILL and errors(found.cameras, clip.cameras)[0] < 0.5


def test_frames_that_have_nothing_in_common_are_not_explained(clip: Clip) -> None:
    noise = torch.rand(clip.frames.shape, generator=torch.Generator().manual_seed(0))
    quick = SMALL.model_copy(update={"iterations": 4})
    assert align_frames(noise, clip.cameras, quick).explained < 0.3
    still = align_frames(
        clip.frames[:1].expand(5, -1, -1, -1), clip.cameras.select(range(5)), quick
    )
    assert still.explained > 0.99 and still.moved_px < 0.01


def test_covariance_shrinks_with_pixels_and_knows_no_scale(clip: Clip) -> None:
    """Four times the pixels, a quarter of the variance, about; scaling the scene is no error."""
    frames, cameras = clip.frames[:5], clip.cameras.select(range(5))
    assert clip.depth is not None
    poses = cameras.world_to_camera.double()
    poses[0] = torch.eye(4)
    traces = []
    for count in (200, 800):
        pixels = PixelPairs(frames, cameras, [0, 4], 4, count)
        inverse = pixels.gather(1 / clip.depth[[0, 4]])
        state = AlignmentState(poses, inverse, torch.ones(5), torch.zeros(5))
        covariance = pose_covariance(pixels, state, pixels.look_up(state), 0.02, 0.5)
        along = scale_direction(poses)
        assert float((along @ covariance @ along).abs()) < 1e-12
        traces.append(float(covariance.diagonal().sum()))
    assert 1.5 < traces[0] / traces[1] < 12


def test_samples_scatter_as_the_covariance_says() -> None:
    root = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    poses[1:, :3, 3] = torch.tensor([[0.1, 0.0, 0.2], [0.3, -0.1, 0.0]])
    samples = sample_poses(poses, root @ root.T, 4000, torch.Generator().manual_seed(1))
    assert torch.equal(samples[:, 0], poses[:1].expand(4000, -1, -1))
    moves = samples[:, 1:] @ invert_rigid(poses[1:])
    small = torch.stack(
        [moves[..., 0, 3], moves[..., 1, 3], moves[..., 2, 3], moves[..., 2, 1]], dim=-1
    )
    found = torch.cov(small.flatten(1).T)
    rows = [0, 1, 2, 3, 6, 7, 8, 9]
    expected = (root @ root.T)[rows][:, rows]
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()

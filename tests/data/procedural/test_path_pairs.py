"""Path pairs: one scene and one first frame, two true clips in opposite directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data.clips import Clip
from data.procedural.config import SceneConfig
from data.procedural.moves import transforms
from data.procedural.path_pairs import make_path_pair, mirrored_path
from data.warping import look_up, unproject

CONFIG = SceneConfig(height=32, width=48, num_frames=9, travel=(0.3, 0.5))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Clip, Clip]]:
    return [make_path_pair(seed, CONFIG) for seed in (700, 701, 702)]


def test_both_clips_start_alike_and_are_normalised(pairs) -> None:
    for own, mirrored in pairs:
        assert torch.equal(own.frames[0], mirrored.frames[0])
        assert own.scale == mirrored.scale
        for clip in (own, mirrored):
            assert clip.frames.shape == (9, 3, 32, 48)
            assert clip.num_path_frames == 9
            assert torch.equal(clip.cameras.world_to_camera[0], torch.eye(4))
            assert clip.depth[0].median().item() == pytest.approx(1, abs=1e-5)
    again = make_path_pair(700, CONFIG.model_copy(update={"num_near": 0}))
    assert torch.equal(again[1].frames, pairs[0][1].frames)


def test_the_mirrored_path_undoes_the_own_one(pairs) -> None:
    for own, mirrored in pairs:
        product = own.cameras.camera_to_world @ mirrored.cameras.camera_to_world
        torch.testing.assert_close(product, torch.eye(4).expand(9, 4, 4), atol=1e-5, rtol=0)


def test_depth_and_cameras_of_both_explain_the_frames(pairs) -> None:
    """The last frame looked up in the first by its own depth and camera is nearer than the first itself."""
    warped, still = 0.0, 0.0
    for clip in (clip for pair in pairs for clip in pair):
        points = unproject(clip.cameras.select(-1), clip.depth[-1:])
        found, shown = look_up(clip.frames[:1], clip.cameras.select(0), points)
        warped += float((found - clip.frames[-1:]).abs().mean(1)[shown].mean())
        still += float((clip.frames[:1] - clip.frames[-1:]).abs().mean(1)[shown].mean())
    assert warped < 0.6 * still


def test_a_turn_about_a_point_is_mirrored_to_the_turn_the_other_way() -> None:
    def orbit(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        position = np.array([[2 * np.sin(angle), 0.0, 2 * (1 - np.cos(angle))]])
        return transforms(position, np.array([-angle]), np.zeros(1), np.zeros(1))[0]

    first = np.eye(4)
    first[:3, :3] = Rotation.from_euler("xyz", [20, 130, 5], degrees=True).as_matrix()
    first[:3, 3] = [3, -1, 4]
    right = first @ np.stack([orbit(0), orbit(10), orbit(25)])
    left = first @ np.stack([orbit(0), orbit(-10), orbit(-25)])
    np.testing.assert_allclose(mirrored_path(right), left, atol=1e-12)

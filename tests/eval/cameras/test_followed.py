"""Whether a clip goes where it was told to: known cameras, wrong commands, and what is gone on with."""

from __future__ import annotations

import pytest
import torch

from eval.cameras.followed import FollowedPoses, pose_estimator
from eval.cameras.path_error import path_error, rotation_angles
from eval.cameras.perturbed import perturbed
from eval.cameras.photometric import PhotometricConfig
from train.alignment.direct import AlignmentConfig

CONFIG = PhotometricConfig(
    alignment=AlignmentConfig(height=48, keyframes=3, gap=8, pixels=800, iterations=8)
)


def test_cameras_that_are_followed_stay(moving_clip):
    found = FollowedPoses(config=CONFIG)(moving_clip.frames, moving_clip.cameras)
    assert found.cameras is None and found.numbers["follows"] is True
    assert "are followed, as far as the frames can tell (R_err 0." in found.note


def test_cameras_that_are_not_followed_are_found(moving_clip):
    """The commands lead elsewhere by 5 degrees and a fifth of the path; what is found is where the frames are."""
    clip = moving_clip
    commanded = perturbed(clip.cameras, "drift", 3, seed=0)
    found = FollowedPoses(config=CONFIG)(clip.frames, commanded)
    assert found.numbers["follows"] is False and "are not followed (R_err" in found.note
    assert found.cameras is not None
    views = range(clip.num_frames)
    before, after = (path_error(some, clip.cameras, views) for some in (commanded, found.cameras))
    assert after.r_err_deg < 0.2 * before.r_err_deg and after.t_err < 0.3 * before.t_err
    # The length of the path too, which the commands have no say in: the frames tell it in depths.
    true = float(clip.cameras.positions.norm(dim=-1).max())
    assert float(found.cameras.positions.norm(dim=-1).max()) == pytest.approx(true, rel=0.25)
    twice = FollowedPoses(config=CONFIG)(clip.frames, commanded.rescaled(0.5))
    assert torch.allclose(twice.cameras.world_to_camera, found.cameras.world_to_camera)


def test_estimated_poses_are_taken_where_they_are_asked_for(moving_clip):
    found = FollowedPoses(always=True, config=CONFIG)(moving_clip.frames, moving_clip.cameras)
    assert found.numbers["follows"] is True and found.cameras is not None
    assert (
        "are followed (R_err" in found.note and "estimated from the frames are used" in found.note
    )
    truth = moving_clip.cameras.world_to_camera.double()
    turns = rotation_angles(found.cameras.world_to_camera[:, :3, :3].mT @ truth[:, :3, :3])
    assert float(torch.rad2deg(turns).max()) < 1


def test_frames_that_tell_nothing_keep_the_commands(moving_clip):
    cameras = moving_clip.cameras
    noise = torch.rand(moving_clip.frames.shape, generator=torch.Generator().manual_seed(0))
    found = FollowedPoses(always=True, config=CONFIG)(noise, cameras)
    assert found.cameras is None and "kept, unchecked: alignment explains" in found.note
    blank = moving_clip.frames.clone()
    blank[4] = 0.5
    found = FollowedPoses(always=True, config=CONFIG)(blank, cameras)
    assert found.cameras is None and found.note.endswith("unchecked: 1 of 9 frames are blank")


def test_the_pipeline_is_asked_to_trust_to_check_or_to_measure():
    assert pose_estimator("commanded") is None
    assert pose_estimator("auto") == FollowedPoses(always=False)
    assert pose_estimator("estimated") == FollowedPoses(always=True)

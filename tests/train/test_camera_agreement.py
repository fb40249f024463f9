"""Camera agreement, held to videos whose agreement is known: the truth, a still copy, half the motion."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from torch import Tensor

from data.cameras import Cameras
from data.clips import Clip
from data.procedural.clips import develop, draw_brightness, try_posed_scene
from data.procedural.config import SceneConfig
from data.procedural.path_pairs import make_path_pair, mirrored_path
from data.procedural.tracer import trace
from data.procedural.viewpoints import Probe, path_is_clear
from train.camera_agreement import (
    CameraAgreement,
    camera_agreement,
    motion_candidates,
    motion_share,
    summarise,
)

CONFIG = SceneConfig(height=48, width=72, num_frames=9, num_near=0, num_far=0, travel=(0.2, 0.9))
SEEDS = (500, 501, 502)
Pair = tuple[Clip, Clip]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [make_path_pair(seed, CONFIG) for seed in SEEDS]


def still(pair: Pair) -> tuple[Tensor, Tensor]:
    video = pair[0].frames[:1].expand(9, -1, -1, -1)
    return video, video


def half_motion(seed: int, pair: Pair) -> tuple[Tensor, Tensor]:
    """What cameras would see that make half of each commanded turn and travel, traced anew."""
    for attempt in range(100):
        scene, views, lens = try_posed_scene(seed, attempt, CONFIG)
        if views is None:
            continue
        own = views.camera_to_world
        probe = Probe(scene, lens, CONFIG.height, CONFIG.width)
        if path_is_clear(probe, mirrored_path(own), views.median_depth):
            break
    videos = []
    for clip in pair:
        halves = np.stack(
            [expm(0.5 * logm(m)) for m in clip.cameras.camera_to_world.double().numpy()]
        ).real
        halves[:, :3, 3] *= clip.scale
        linear, _ = trace(scene, own[0] @ halves, lens, 48, 72, supersampling=2)
        frames = torch.from_numpy(develop(linear, draw_brightness(seed)))
        videos.append(frames.movedim(-1, 1).contiguous())
    return videos[0], videos[1]


def test_candidates_made_once_serve_any_video(pairs) -> None:
    pair = pairs[0]
    candidates = (motion_candidates(pair[0]), motion_candidates(pair[1]))
    for videos in (still(pair), (pair[0].frames, pair[1].frames)):
        assert camera_agreement(pair, videos, candidates) == camera_agreement(pair, videos)


def test_the_truth_agrees_and_its_opposite_disagrees(pairs) -> None:
    scores = [camera_agreement(pair, (pair[0].frames, pair[1].frames)) for pair in pairs]
    found = summarise(scores)
    assert found["motion_share"] == pytest.approx(1, abs=0.03)
    assert all(share == pytest.approx(1, abs=0.08) for s in scores for share in s.motion_share)
    assert found["two_way_choice"] == 1
    assert found["psnr"] == 60
    swapped = summarise(
        [camera_agreement(pair, (pair[1].frames, pair[0].frames)) for pair in pairs]
    )
    assert swapped["motion_share"] == pytest.approx(-1, abs=0.05)
    assert swapped["two_way_choice"] == 0
    assert swapped["matched_minus_crossed_db"] == -found["matched_minus_crossed_db"] < -20


def test_a_still_copy_does_not_move_and_chooses_by_chance(pairs) -> None:
    for pair in pairs:
        found = summarise([camera_agreement(pair, still(pair))])
        assert found["motion_share"] == pytest.approx(0, abs=0.01)
        assert found["two_way_choice"] == 0.5
        assert found["matched_minus_crossed_db"] == 0


def test_half_the_motion_is_half_a_share(pairs) -> None:
    halves = [half_motion(seed, pair) for seed, pair in zip(SEEDS, pairs, strict=True)]
    scores = [camera_agreement(pair, video) for pair, video in zip(pairs, halves, strict=True)]
    found = summarise(scores)
    assert all(share == pytest.approx(0.5, abs=0.06) for s in scores for share in s.motion_share)
    assert found["two_way_choice"] > 0.8
    assert 0 < found["matched_minus_crossed_db"] < 15


def test_a_blurred_video_is_judged_by_its_motion(pairs) -> None:
    """Models are blurrier than the truth, which must not look like moving more or less."""
    blur = torch.nn.AvgPool2d(5, 1, 2, count_include_pad=False)
    moved = [motion_share(blur(clip.frames), clip) for pair in pairs for clip in pair]
    assert sum(moved) / len(moved) == pytest.approx(1, abs=0.15)
    stood = [motion_share(blur(still(pair)[0]), clip) for pair in pairs for clip in pair]
    assert sum(stood) / len(stood) == pytest.approx(0, abs=0.05)


def test_a_path_that_comes_back_is_judged_where_it_is_farthest(pairs) -> None:
    clip = pairs[0][0]
    there_and_back = clip.select([0, 2, 4, 6, 8, 6, 4, 2, 0])
    found = motion_share(there_and_back.frames, there_and_back)
    assert found == pytest.approx(1, abs=0.08)


def test_a_path_without_motion_has_no_share(pairs) -> None:
    own, mirrored = pairs[0]
    cameras = Cameras(torch.eye(4).expand(9, 4, 4), own.cameras.intrinsics, 48, 72)
    frozen = replace(own, cameras=cameras)
    assert math.isnan(motion_share(own.frames, frozen))
    score = camera_agreement((frozen, mirrored), (own.frames, mirrored.frames))
    assert summarise([score])["motion_share"] == pytest.approx(1, abs=0.08)


def test_means_are_over_scenes_and_paths() -> None:
    one = CameraAgreement((0.2, 0.4), (1.0, 0.5), (20.0, 22.0), (19.0, 23.0))
    two = CameraAgreement((0.6, 0.8), (0.0, 1.0), (24.0, 26.0), (20.0, 20.0))
    found = summarise([one, two])
    expected = {"motion_share": 0.5, "two_way_choice": 0.625, "psnr": 23.0}
    assert found == pytest.approx(expected | {"matched_minus_crossed_db": 2.5})

"""Which clips are cut from a scene, in which unit of length, and which are left out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
import torch

from configs.errors import UserError
from data.clip_cutting import plan_cuts
from data.clips import Clip
from data.importers.posed_scene import FrameFit, PosedScene
from data.left_out import LeftOut, Reason
from data.scene_clips import ClipRules, scene_clips

RULES = ClipRules(height=48, width=72, num_frames=9, strides=(1,), num_extra=2)


def scene_of(walk) -> PosedScene:
    def read(views: Sequence[int], fit: FrameFit):
        return walk.frames[list(views)], walk.cameras.intrinsics[list(views)]

    return PosedScene("walk", walk.cameras.world_to_camera, read)


def clips(walk, rules: ClipRules = RULES) -> list[Clip | LeftOut]:
    return [found for _, found in scene_clips(scene_of(walk), rules, "test")]


def only_reason(walk, rules: ClipRules = RULES) -> Reason:
    found = clips(walk, rules)
    reasons = {entry.reason for entry in found if isinstance(entry, LeftOut)}
    assert len(reasons) == 1 and all(isinstance(entry, LeftOut) for entry in found)
    return reasons.pop()


# The plan.


def test_several_clips_a_scene_each_at_one_of_the_strides():
    plan = plan_cuts(1000, 49, (3, 4, 5), 24, name="a")
    strides = {cut.path.step for cut in plan}
    assert strides == {3, 4, 5}
    assert all(len(cut.path) == 49 and len(cut.extra) == 24 for cut in plan)
    for cut, following in itertools.pairwise(plan):
        assert following.path[0] == cut.path[-1] + 1
    assert plan[-1].path[-1] + 48 * 3 + 1 >= 1000, "what is left is shorter than any clip"
    assert (
        plan
        == plan_cuts(1000, 49, (5, 4, 3), 24, name="a")
        != plan_cuts(1000, 49, (3, 4, 5), 24, name="b")
    )


def test_a_short_scene_gets_the_stride_that_fits():
    assert [cut.path.step for cut in plan_cuts(150, 49, (3, 4, 5), 0, name="x")] == [3]
    assert plan_cuts(144, 49, (3, 4, 5), 0) == []
    assert plan_cuts(145, 49, (3, 4, 5), 0)[0].describe() == "frames 0 to 144 by 3"


def test_overlap_gives_more_clips():
    starts = [cut.path[0] for cut in plan_cuts(100, 17, (2,), 0, overlap=0.5)]
    assert starts[:4] == [0, 16, 32, 48] and starts[-1] == 64
    with pytest.raises(UserError, match="overlap of 1"):
        plan_cuts(100, 17, (2,), 0, overlap=1.0)


# The clips.


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_clip_is_its_frames_in_units_of_the_scenes_depth(make_walk, check_clip, seed):
    walk = make_walk(seed)
    rules = RULES.model_copy(update={"num_frames": 17, "strides": (2,)})
    (clip,) = clips(walk, rules)
    assert isinstance(clip, Clip) and clip.source == "test/walk/000"
    path = list(range(0, 33, 2))
    assert clip.num_path_frames == 17
    check_clip(clip, walk, [*path, 9, 25] if clip.num_frames == 19 else path)
    truth = float(walk.depth.median())
    assert truth / 1.5 < clip.scale < truth * 1.5


def test_a_camera_that_does_not_move_tells_no_unit_of_length(make_walk):
    walk = make_walk(0)
    still = dataclasses.replace(
        walk,
        frames=walk.frames[:1].expand(33, -1, -1, -1),
        cameras=walk.cameras.select([0] * 33),
    )
    assert only_reason(still) == Reason.NO_PARALLAX
    jitter = still.cameras.world_to_camera + 0
    jitter[:, :3, 3] += (
        1e-6 * torch.randn(33, 3, generator=torch.Generator().manual_seed(0)).double()
    )
    still = dataclasses.replace(
        still, cameras=dataclasses.replace(still.cameras, world_to_camera=jitter)
    )
    assert only_reason(still) == Reason.NO_PARALLAX
    kept = clips(still, RULES.model_copy(update={"keep_without_parallax": True}))
    assert all(isinstance(clip, Clip) for clip in kept)


def test_frames_that_do_not_belong_to_the_cameras_are_left_out(make_walk):
    noise = torch.rand(33, 3, 48, 72, generator=torch.Generator().manual_seed(0))
    wrong = dataclasses.replace(make_walk(1), frames=noise)
    assert only_reason(wrong) == Reason.NO_PARALLAX


def test_a_camera_that_hardly_moves_is_left_out(make_walk):
    assert only_reason(make_walk(0), RULES.model_copy(update={"min_travel": 3.0})) == Reason.STILL
    assert all(isinstance(c, Clip) for c in clips(make_walk(0), RULES))


def test_a_jump_of_the_camera_is_left_out(make_walk):
    walk = make_walk(0)
    moved = walk.cameras.world_to_camera + 0
    moved[5:9, :3, 3] += 4 * float(walk.depth.median())
    found = clips(
        dataclasses.replace(walk, cameras=dataclasses.replace(walk.cameras, world_to_camera=moved))
    )
    assert isinstance(found[0], LeftOut)
    assert found[0].reason in {Reason.JUMP, Reason.NO_PARALLAX}
    assert [isinstance(clip, Clip) for clip in found[1:]] == [True, True]


def test_a_scene_that_is_too_short_says_what_it_would_need(make_walk):
    rules = RULES.model_copy(update={"num_frames": 17, "strides": (3, 4)})
    with pytest.raises(LeftOut, match="walk: has 33 frames; 17 frames at stride 3 need 49") as told:
        clips(make_walk(0), rules)
    assert told.value.reason == Reason.SHORT


def test_frames_that_do_not_decode_cost_only_their_clip(make_walk):
    walk = make_walk(0)
    scene = scene_of(walk)

    def read(views: Sequence[int], fit: FrameFit):
        if 12 in views:
            raise UserError("frame 12 is damaged")
        return scene.read(views, fit)

    found = [
        f
        for _, f in scene_clips(
            dataclasses.replace(scene, read=read), RULES.model_copy(update={"num_extra": 0}), "t"
        )
    ]
    assert [isinstance(clip, Clip) for clip in found] == [True, False, True]
    assert isinstance(found[1], LeftOut) and found[1].reason == Reason.UNDECODABLE


def test_rules_that_make_no_sense_are_refused():
    for change in ({"num_frames": 48}, {"overlap": 1.0}, {"min_travel": -1.0}, {"strides": ()}):
        with pytest.raises(ValueError, match="validation error"):
            ClipRules(**change)

"""A set of scenes to shards: the same bytes by one process or many, whatever interrupts them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from data import scene_clips
from data.importers.posed_scene import FrameFit, PosedScene, SceneRef
from data.left_out import LeftOut, Reason, read_left_out
from data.scene_clips import ClipRules
from data.scene_shards import SceneShards, scenes_account
from data.shard_index import SampleFormat, ShardIndex
from data.shards import read_clip, verify
from data.work_share import WorkShare

KILLED = 9
RULES = ClipRules(height=48, width=72, num_frames=9, num_extra=2)
SEEDS = {"a": 0, "b": 1, "d": 2, "e": 4, "g": 6}
NUM_SCENES = 7


@pytest.fixture(autouse=True)
def quick_depth(monkeypatch):
    """A plane sweep takes most of the time; what is tested here is not its answer."""
    monkeypatch.setattr(scene_clips, "sweep_depth", lambda frames, cameras: 2.0)


@dataclass(frozen=True)
class Walks:
    """Five walks, and two scenes that can't be used: "c" is broken, "f" too short."""

    make_walk: Callable[..., Any]

    def list_scenes(self) -> list[SceneRef]:
        return [SceneRef(name) for name in "abcdefg"]

    def open(self, scene: SceneRef, fit: FrameFit) -> PosedScene:
        if scene.name == "c":
            raise UserError("c: is broken")
        walk = self.make_walk(SEEDS.get(scene.name, 0), 25)
        count = 5 if scene.name == "f" else 25

        def read(views: Sequence[int], fit: FrameFit):
            return walk.frames[list(views)], walk.cameras.intrinsics[list(views)]

        return PosedScene(scene.name, walk.cameras.world_to_camera[:count], read)


@pytest.fixture
def write(make_walk, tmp_path: Path) -> Callable[..., SceneShards]:
    """Writes the walks, two scenes a shard."""

    def run(name: str, **options: Any) -> SceneShards:
        options = {"sample_format": SampleFormat(depth="none"), "scenes_per_shard": 2} | options
        rules = options.pop("rules", RULES)
        progress = options.pop("progress", lambda scenes: None)
        shards = SceneShards(tmp_path / name, Walks(make_walk), "walks", rules, **options)
        shards.write(1, progress)
        return shards

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(write) -> dict[str, bytes]:
    return contents(write("whole").folder)


def test_scenes_become_clips_with_their_poses_and_captions(write, make_walk, check_clip):
    shards = write("out", captions={"b": "a room", "zz": "none"})
    index = ShardIndex.load(shards.folder)
    assert verify(shards.folder).problems == []
    clips = [read_clip(index, number) for number in range(len(index))]
    sources = [clip.source for clip in clips]
    assert sources == [f"walks/{name}/{n:03d}" for name in SEEDS for n in range(2)]
    for number, clip in enumerate(clips):
        first = 9 * (number % 2)
        path = list(range(first, first + 9))
        around = [v for v in range(max(0, first - 4), min(25, first + 13)) if v not in path]
        extra = [around[int((i + 0.5) * len(around) / 2)] for i in range(2)]
        check_clip(clip, make_walk(SEEDS[clip.source.split("/")[1]], 25), path + extra)
    assert {clip.caption for clip in clips} == {"", "a room"}


def test_what_was_left_out_is_listed_and_counted(write):
    folder = write("out").folder
    entries = {entry.scene: entry for entry in read_left_out(folder)}
    assert {name: entry.reason for name, entry in entries.items()} == {
        "c": Reason.CAMERAS,
        "f": Reason.SHORT,
    }
    assert entries["c"].detail == "c: is broken" and entries["c"].frames is None
    lines = (folder / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["scene"] for line in lines] == ["c", "f"]
    account = scenes_account(folder, NUM_SCENES)
    assert account["scenes"] == "5 of 7 gave clips"
    assert account["left out: too short"] == "1 scenes"


def test_clips_are_left_out_by_themselves(write):
    account = scenes_account(
        write("out", rules=RULES.model_copy(update={"min_travel": 0.3})).folder, NUM_SCENES
    )
    assert account["left out: camera hardly moves"].endswith("clips")


def test_nothing_left_is_one_sentence_and_can_be_tried_again(write, tmp_path):
    rules = RULES.model_copy(update={"num_frames": 33})
    with pytest.raises(UserError, match=r"nothing is left of 7 scenes \(too short: 6 scenes; cam"):
        write("out", rules=rules)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["left_out.jsonl"]
    assert write("out").is_finished


@pytest.mark.parametrize("count", [2, 3, 5])
def test_many_processes_give_the_bytes_of_one(write, whole, tmp_path, count):
    for rank in reversed(range(count)):
        with pytest.raises(UserError):
            ShardIndex.load(tmp_path / "shared")
        shards = write("shared", share=WorkShare(rank, count))
        assert shards.is_finished == (rank == 0)
    assert contents(tmp_path / "shared") == whole


def test_another_number_of_processes_goes_on(write, whole, tmp_path):
    write("shared", share=WorkShare(1, 3))
    with pytest.raises(UserError, match="already holds unfinished shards; add --resume"):
        write("shared")
    assert write("shared", existing="resume").is_finished
    assert contents(tmp_path / "shared") == whole


def test_a_process_that_comes_late_finds_nothing_to_do(write, whole, tmp_path):
    late = write("whole", share=WorkShare(3, 8))
    assert late.is_finished and late.num_to_do == 0
    assert contents(tmp_path / "whole") == whole


def test_processes_that_were_started_otherwise_are_refused(write, tmp_path):
    write("shared", share=WorkShare(1, 2))
    with pytest.raises(UserError, match="scenes_per_shard was 2, now it is 3"):
        write("shared", share=WorkShare(0, 2), scenes_per_shard=3)
    with pytest.raises(UserError, match="format was .*png.* now it is .*jpeg"):
        write("shared", share=WorkShare(0, 2), sample_format=SampleFormat(image="jpeg"))
    with pytest.raises(UserError, match="--overwrite is for one process alone"):
        write("shared", share=WorkShare(0, 2), existing="overwrite")


def test_a_folder_that_another_command_took_over_is_left_to_it(write, tmp_path):
    def taken_over(scenes: int) -> None:
        path = tmp_path / "out" / "unfinished.json"
        if path.exists():
            content = json.loads(path.read_text())
            content["recipe"]["num_scenes"] = 8
            path.write_text(json.dumps(content))

    with pytest.raises(UserError, match="num_scenes was 8, now it is 7"):
        write("out", progress=taken_over)
    (tmp_path / "gone").mkdir()

    def removed(scenes: int) -> None:
        (tmp_path / "gone" / "unfinished.json").unlink(missing_ok=True)

    with pytest.raises(UserError, match=r"unfinished.json is gone"):
        write("gone", progress=removed)


def test_an_interrupted_process_leaves_whole_parts_and_goes_on(write, whole, tmp_path):
    done = 0

    def stop_in_the_third_part(scenes: int) -> None:
        nonlocal done
        done += scenes
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("out", progress=stop_in_the_third_part)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    parts = [f"shard-00000{part}.{end}" for part in (0, 1) for end in ("json", "tar")]
    assert names == [*parts, "unfinished.json"]
    with pytest.raises(UserError, match="unfinished"):
        ShardIndex.load(tmp_path / "out")
    seen: list[int] = []
    write("out", existing="resume", progress=seen.append)
    assert sum(seen) == 3, "the two parts that were whole are not made again"
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("moment", range(1, 30, 2))
def test_a_killed_process_goes_on_to_the_same_bytes(write, whole, tmp_path, monkeypatch, moment):
    """A process dies without any clean-up just before its `moment`-th step on the disk."""
    steps = 0

    def dies_before(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == moment:
                os._exit(KILLED)
            return step(*args, **kwargs)

        return call

    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # its copy of this process has no other threads to wait for
            for step in ("fsync", "replace", "unlink"):
                monkeypatch.setattr(os, step, dies_before(getattr(os, step)))
            write("out")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED
    folder = tmp_path / "out"
    if (folder / "index.json").exists():
        assert (folder / "index.json").read_bytes() == whole["index.json"]
    for path in folder.glob("shard-??????.json"):
        record = json.loads(path.read_text())["shard"]
        if record:
            assert (folder / record["file"]).stat().st_size == record["bytes"]
    write("out", existing="resume")
    assert contents(folder) == whole


def test_a_part_without_clips_is_no_shard(write, tmp_path, make_walk, monkeypatch):
    monkeypatch.setitem(SEEDS, "d", 0)
    rules = RULES
    shards = write("out", scenes_per_shard=1, rules=rules)
    names = {path.name for path in shards.folder.glob("*.tar")}
    assert names == {f"shard-00000{n}.tar" for n in (0, 1, 3, 4, 6)}
    assert len(ShardIndex.load(shards.folder)) == 10
    assert write("out", scenes_per_shard=1, existing="resume").num_to_do == 0


def test_an_index_that_is_being_finished_by_two_is_whole(write, whole, tmp_path):
    """One has written the index and removed part of the records when the other looks for them."""
    write("out", share=WorkShare(0, 2))
    second = SceneShards(
        tmp_path / "out",
        Walks(None),  # type: ignore[arg-type]
        "walks",
        RULES,
        sample_format=SampleFormat(depth="none"),
        scenes_per_shard=2,
        share=WorkShare(0, 2),
    )
    write("out", share=WorkShare(1, 2))
    assert contents(tmp_path / "out") == whole
    second.write(1)
    assert contents(tmp_path / "out") == whole


def test_frames_of_other_sizes_are_never_mixed(write, tmp_path):
    write("out", share=WorkShare(0, 2))
    other = RULES.model_copy(update={"width": 64})
    with pytest.raises(UserError, match="rules was .*'width': 72.* now it is .*'width': 64"):
        write("out", share=WorkShare(1, 2), rules=other)


def test_files_that_can_not_be_read_cost_only_their_scene(write, make_walk, monkeypatch):
    plain = Walks.open

    def no_permission(self, scene, fit):
        if scene.name == "a":
            raise PermissionError(13, "Permission denied", "a/frames")
        return plain(self, scene, fit)

    monkeypatch.setattr(Walks, "open", no_permission)
    folder = write("out").folder
    entry = read_left_out(folder)[0]
    assert (entry.scene, entry.reason) == ("a", "files can't be read")
    assert "Permission denied" in entry.detail
    assert len(ShardIndex.load(folder)) == 8


def test_left_out_travels_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(LeftOut(Reason.SHORT, "why")))
    assert (error.reason, str(error)) == (Reason.SHORT, "why")

"""Writing shards: finished or plainly not, whatever interrupts it, and never over something else."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from data import durable_files
from data.shard_index import SampleFormat, ShardIndex
from data.shard_samples import encode_clip
from data.shard_writing import ShardWriter, sample_key, write_shards
from data.shards import read_clip, verify

KILLED = 9


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit_index(folder: Path, edit: Any) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# Bad clips and folders.


def test_frames_and_cameras_of_different_number_are_refused(make_clip, tmp_path):
    clip = make_clip(0)
    with pytest.raises(UserError, match="12 frames but 11 cameras"):
        dataclasses.replace(clip, cameras=clip.cameras.select(range(11)))


def test_clips_of_different_size_are_refused(make_clip, tmp_path):
    with pytest.raises(UserError, match=r"clip 1 is 24x24 but those before it are 16x24"):
        write_shards([make_clip(0), make_clip(1, height=24)], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


def test_bad_cameras_and_pixels_are_refused_and_leave_nothing(make_clip, tmp_path):
    clip = make_clip(3)
    skewed = clip.cameras.world_to_camera.clone()
    skewed[2, 0, 0] *= 1.5
    bad = dataclasses.replace(
        clip, cameras=dataclasses.replace(clip.cameras, world_to_camera=skewed)
    )
    with pytest.raises(UserError, match=r"test/0003: camera 2 .* not orthonormal"):
        write_shards([bad], tmp_path / "a")
    frames = clip.frames.clone()
    frames[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="test/0003: frames have NaN"):
        write_shards([dataclasses.replace(clip, frames=frames)], tmp_path / "a")
    with pytest.raises(UserError, match="no clips to write"):
        write_shards([], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_existing_folder_is_refused_or_replaced(shards, make_clip, tmp_path):
    before = {path.name: path.read_bytes() for path in shards.folder.iterdir()}
    with pytest.raises(UserError, match=r"already holds finished shards.*--resume.*--overwrite"):
        write_shards([make_clip(9)], shards.folder)
    assert {path.name: path.read_bytes() for path in shards.folder.iterdir()} == before

    def fails_at_once():
        raise UserError("no such capture")
        yield

    with pytest.raises(UserError, match="no such capture"):
        write_shards(fails_at_once(), shards.folder, existing="overwrite")
    assert {path.name: path.read_bytes() for path in shards.folder.iterdir()} == before
    replaced = write_shards([make_clip(9)], shards.folder, existing="overwrite")
    assert read_clip(replaced, 0).source == "test/0009"
    assert names(shards.folder) == ["index.json", "shard-000000.tar"]


def test_a_folder_of_stray_shards_or_a_file_is_refused(shards, make_clip, tmp_path):
    (shards.folder / "index.json").unlink()
    with pytest.raises(UserError, match=r"has shard-000000.tar but no index.json"):
        write_shards([make_clip(0)], shards.folder, existing="overwrite")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        write_shards([make_clip(0)], tmp_path / "file")
    with pytest.raises(UserError, match="is missing or is a file"):
        write_shards([make_clip(0)], tmp_path / "file" / "below")


# Interruptions.


def test_an_interrupted_writing_is_unfinished_and_resumes_to_the_same_bytes(
    make_clip, make_shards, tmp_path
):
    whole = make_shards()
    folder = tmp_path / "stopped"

    def write(stop_after: int, existing: str) -> None:
        with ShardWriter(folder, clips_per_shard=3, existing=existing, expected=7) as writer:
            for seed in writer.numbers():
                if seed == stop_after:
                    raise KeyboardInterrupt
                writer.add_clip(make_clip(seed))

    with pytest.raises(KeyboardInterrupt):
        write(5, "refuse")
    assert names(folder) == ["shard-000000.json", "shard-000000.tar", "unfinished.json"]
    with pytest.raises(UserError, match=r"unfinished.*--resume"):
        ShardIndex.load(folder)
    with pytest.raises(UserError, match="already holds unfinished shards"):
        write(7, "refuse")
    write(7, "resume")
    assert ShardIndex.load(folder).content == whole.content
    assert names(folder) == names(whole.folder)


def test_nothing_is_left_where_no_shard_was_finished(make_clip, tmp_path):
    def write() -> None:
        with ShardWriter(tmp_path / "new", expected=2) as writer:
            writer.add_clip(make_clip(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", range(1, 24))
def test_a_killed_writing_resumes(make_clip, make_shards, tmp_path, monkeypatch, moment):
    """A process dies without any clean-up just before its `moment`-th step on the disk."""
    whole = make_shards()
    folder = tmp_path / "killed"
    samples = [encode_clip(make_clip(i), sample_key(i), SampleFormat()) for i in range(7)]
    steps = 0

    def dies_before(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == moment:
                os._exit(KILLED)
            return step(*args, **kwargs)

        return call

    def write() -> None:
        with ShardWriter(folder, clips_per_shard=3, existing="resume", expected=7) as writer:
            for number in writer.numbers():
                writer.add(samples[number])

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "fsync", dies_before(os.fsync))
        monkeypatch.setattr(os, "replace", dies_before(os.replace))
        monkeypatch.setattr(os, "unlink", dies_before(os.unlink))
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED
    if (folder / "index.json").exists():
        assert ShardIndex.load(folder).content == whole.content
    write()
    assert ShardIndex.load(folder).content == whole.content
    assert names(folder) == names(whole.folder)


def test_a_finished_folder_can_be_added_to(make_shards, make_clip):
    small, large = make_shards(4, "grows"), make_shards(7, "whole")
    with ShardWriter(small.folder, clips_per_shard=3, existing="resume", expected=7) as writer:
        assert writer.num_done == 3
        for seed in writer.numbers():
            writer.add_clip(make_clip(seed))
    assert ShardIndex.load(small.folder).content == large.content


def test_resuming_what_is_complete_changes_nothing(shards):
    before = (shards.folder / "index.json").stat().st_mtime_ns
    with ShardWriter(shards.folder, clips_per_shard=3, existing="resume", expected=7) as writer:
        assert writer.num_done == 7
    assert (shards.folder / "index.json").stat().st_mtime_ns == before
    with (
        pytest.raises(UserError, match="already holds 7 samples, more than the 4"),
        ShardWriter(shards.folder, clips_per_shard=3, existing="resume", expected=4),
    ):
        pass


def test_resuming_with_other_settings_is_refused(shards):
    for options, message in [
        ({"recipe": {"seed": 1}}, "seed was None, now it is 1"),
        ({"sample_format": SampleFormat(image="jpeg")}, "format was .*png.* now it is .*jpeg"),
        ({"clips_per_shard": 4}, "clips per shard was 3, now it is 4"),
    ]:
        options = {"clips_per_shard": 3, **options}
        with (
            pytest.raises(UserError, match=message),
            ShardWriter(shards.folder, expected=7, existing="resume", **options),
        ):
            pass


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 999)])
def test_a_shard_that_is_missing_or_cut_short_is_made_again(make_clip, shards, harm):
    whole = shards.content
    harm(shards.folder / "shard-000001.tar")
    with ShardWriter(shards.folder, clips_per_shard=3, existing="resume", expected=7) as writer:
        assert list(writer.numbers()) == [3, 4, 5]
        for seed in writer.numbers():
            writer.add_clip(make_clip(seed))
    assert ShardIndex.load(shards.folder).content == whole
    assert verify(shards.folder).problems == []


@pytest.mark.parametrize("moment", ["write", "sync"])
def test_a_full_disk_is_one_sentence_and_leaves_no_stray_file(
    make_clip, tmp_path, monkeypatch, moment
):
    class FullDisk(io.FileIO):
        room = 200_000

        def write(self, content: Any) -> int:
            FullDisk.room -= len(content)
            if FullDisk.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    real_open = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "wb" and path.name.startswith("shard-") and ".tar." in path.name:
            raw = FullDisk(path, "wb")
            return raw if moment == "write" else io.BufferedWriter(raw, 10_000_000)
        return real_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    clips = (make_clip(seed) for seed in range(7))
    with pytest.raises(UserError, match=r"shard-000001.tar: the disk is full: [\d,]+ bytes needed"):
        write_shards(clips, tmp_path / "full", clips_per_shard=3)
    left = ["shard-000000.json", "shard-000000.tar", "unfinished.json"]
    assert names(tmp_path / "full") == left


def test_a_full_disk_while_writing_the_index(make_clip, tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable_files, "sync", full)
    with pytest.raises(UserError, match=r"unfinished.json: the disk is full: [\d,]+ bytes needed"):
        write_shards([make_clip(0)], tmp_path / "full")
    assert not (tmp_path / "full").exists() or not any((tmp_path / "full").iterdir())

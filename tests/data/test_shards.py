"""Shards: what goes in comes out, the bytes are repeatable, and any damage is found and named."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from configs.errors import UserError
from data.shard_index import DamagedSample, SampleFormat, ShardIndex
from data.shard_samples import encode_members
from data.shard_writing import ShardWriter, tensor_writer, write_shards
from data.shards import open_clip, read_clip, read_tensors, verify

KILLED = 9


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit_index(folder: Path, edit: Any) -> None:
    path = folder / "index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# What goes in comes out.


def test_a_clip_comes_back_as_it_was(shards, make_clip):
    for number in (0, 4, 6):
        clip, original = read_clip(shards, number), make_clip(number)
        assert torch.equal(clip.frames, original.frames)
        assert torch.equal(clip.cameras.world_to_camera, original.cameras.world_to_camera)
        assert torch.equal(clip.cameras.intrinsics, original.cameras.intrinsics)
        assert (clip.source, clip.caption, clip.scale) == (
            original.source,
            original.caption,
            original.scale,
        )
        assert clip.num_path_frames == original.num_path_frames
        assert torch.equal(clip.depth, original.depth.half().float())


def test_float32_depth_is_exact_and_unusable_depth_becomes_unknown(make_clip, tmp_path):
    clip = make_clip(0)
    depth = clip.depth.clone()
    depth[0, 0, :3] = torch.tensor([float("inf"), float("nan"), -1.0])
    depth[0, 0, 3] = 1e6
    clip = dataclasses.replace(clip, depth=depth)
    exact = write_shards([clip], tmp_path / "32", sample_format=SampleFormat(depth="float32"))
    assert read_clip(exact, 0).depth[0, 0, :4].tolist() == [0, 0, 0, 1e6]
    assert torch.equal(read_clip(exact, 0).depth[1:], depth[1:])
    half = write_shards([clip], tmp_path / "16")
    assert read_clip(half, 0).depth[0, 0, :4].tolist() == [0, 0, 0, 0]
    without = write_shards([clip], tmp_path / "0", sample_format=SampleFormat(depth="none"))
    assert read_clip(without, 0).depth is None


def test_jpeg_frames_are_close_and_smaller(make_clip, tmp_path):
    clip = make_clip(0)
    smooth = torch.nn.functional.interpolate(
        clip.frames[..., :2, :3], size=(16, 24), mode="bilinear"
    )
    clip = dataclasses.replace(clip, frames=smooth)
    index = write_shards(
        [clip], tmp_path / "jpeg", sample_format=SampleFormat(image="jpeg", depth="none")
    )
    error = (read_clip(index, 0).frames - smooth).abs()
    assert error.mean() < 2 / 255


def test_lazy_clip_decodes_only_the_chosen_views(shards, make_clip, monkeypatch):
    lazy = open_clip(shards, 2)
    original = make_clip(2)
    assert (lazy.num_frames, lazy.num_path_frames, lazy.has_depth) == (12, 9, True)
    assert torch.equal(lazy.cameras.world_to_camera, original.cameras.world_to_camera)
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or open_image(*a, **k))
    clip = lazy.load([5, 0, 11])
    assert len(opened) == 3
    assert torch.equal(clip.frames, original.frames[[5, 0, 11]])
    assert torch.equal(clip.depth, original.depth[[5, 0, 11]].half().float())
    assert torch.equal(clip.cameras.world_to_camera, original.cameras.world_to_camera[[5, 0, 11]])
    assert clip.num_path_frames == 3
    assert lazy.load([1], depth=False).depth is None


def test_webdataset_reads_the_shards(shards, make_clip):
    urls = [str(shards.folder / shard.file) for shard in shards.content.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == len(shards) == 7
    for number, sample in enumerate(samples):
        original = make_clip(number)
        for view in range(original.num_frames):
            expected = (original.frames[view].permute(1, 2, 0) * 255).round().byte().numpy()
            assert np.array_equal(sample[f"{view:03d}.png"], expected)
        assert sample["cameras.json"]["source"] == original.source


def test_tar_and_plain_files_agree_with_the_index(shards):
    """The index's offsets lead to what the tar library finds."""
    for shard in shards.content.shards:
        path = shards.folder / shard.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
        assert path.stat().st_size == shard.bytes
        with tarfile.open(path) as archive:
            members = archive.getmembers()
        for sample in shard.samples:
            own = [member for member in members if member.name.startswith(sample.key)]
            assert own[0].offset == sample.offset
            assert sum(member.name.endswith(".png") for member in own) == sample.num_frames
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}


def test_the_same_clips_give_the_same_bytes(make_shards):
    first, second = make_shards(name="a"), make_shards(name="b")
    assert first.fingerprint == second.fingerprint
    assert first.content == second.content


# Damage.


def test_a_flipped_byte_anywhere_in_a_sample_is_found(shards):
    shard = shards.content.shards[1]
    path, sample = shards.folder / shard.file, shard.samples[1]
    intact = path.read_bytes()
    for position in (
        torch.linspace(sample.offset, sample.offset + sample.size - 1, 9).long().tolist()
    ):
        flip_byte(path, position)
        with pytest.raises(DamagedSample, match="do not match the index's checksum") as caught:
            read_clip(ShardIndex.load(shards.folder), 4)
        assert (caught.value.file, caught.value.key) == (path, "00000004")
        read_clip(ShardIndex.load(shards.folder), 3)
        path.write_bytes(intact)


def test_verify_passes_whole_shards_and_names_each_damage(make_shards):
    index = make_shards(12)
    found = verify(index.folder)
    assert (found.num_shards, found.num_clips, found.problems) == (4, 12, [])
    flip_byte(index.folder / "shard-000000.tar", index.locate(1)[1].offset + 3000)
    path = index.folder / "shard-000001.tar"
    os.truncate(path, index.locate(5)[1].offset + 100)
    (index.folder / "shard-000003.tar").unlink()
    seen = []
    problems = "\n".join(verify(index.folder, seen.append).problems).splitlines()
    assert sum(seen) == 12
    for problem, words in zip(
        problems,
        [
            ("shard-000000.tar", "sha256"),
            ("shard-000000.tar", "00000001", "checksum"),
            ("shard-000001.tar", "bytes, the index says"),
            ("shard-000001.tar", "00000005", "truncated"),
            ("shard-000003.tar", "missing", "3 samples"),
        ],
        strict=True,
    ):
        assert all(word in problem for word in words), problem


def test_damage_outside_the_samples_is_found_by_verify(shards):
    path = shards.folder / "shard-000000.tar"
    flip_byte(path, path.stat().st_size - 1)
    problems = verify(shards.folder).problems
    assert len(problems) == 1 and "sha256" in problems[0]


def test_an_index_that_contradicts_itself_is_refused(shards):
    def claims_more(content: Any) -> None:
        content["num_clips"] = 8

    def loses_a_sample(content: Any) -> None:
        content["shards"][0]["samples"].pop()

    def points_outside(content: Any) -> None:
        content["shards"][1]["samples"][2]["size"] += 10**6

    def leaves_the_folder(content: Any) -> None:
        content["shards"][0]["file"] = "../../etc/passwd"

    def comes_from_the_future(content: Any) -> None:
        content["version"] = 2

    def has_no_hash(content: Any) -> None:
        del content["shards"][2]["sha256"]

    intact = (shards.folder / "index.json").read_bytes()
    for edit, message in [
        (claims_more, "num_clips is 8 but its shards have 7"),
        (loses_a_sample, r"shard-000000.tar has num_clips 3 but lists 2"),
        (points_outside, r"shard-000001.tar: sample 00000005 ends at byte"),
        (leaves_the_folder, r"shards\.0\.file"),
        (comes_from_the_future, "index version 2, this program reads version 1"),
        (has_no_hash, r"shards\.2\.sha256"),
    ]:
        edit_index(shards.folder, edit)
        with pytest.raises(UserError, match=message):
            ShardIndex.load(shards.folder)
        (shards.folder / "index.json").write_bytes(intact)
    (shards.folder / "index.json").write_bytes(intact[: len(intact) // 2])
    with pytest.raises(UserError, match=r"index.json: not a shard index"):
        ShardIndex.load(shards.folder)


def test_an_index_that_lies_about_a_sample_is_found(shards):
    def shifts(content: Any) -> None:
        content["shards"][0]["samples"][1]["offset"] -= 512

    def claims_frames(content: Any) -> None:
        content["shards"][0]["samples"][0]["num_frames"] = 99

    edit_index(shards.folder, shifts)
    with pytest.raises(DamagedSample, match="checksum"):
        read_clip(ShardIndex.load(shards.folder), 1)
    edit_index(shards.folder, claims_frames)
    with pytest.raises(DamagedSample, match=r"12 frames, 12 cameras .* index says 99 frames"):
        read_clip(ShardIndex.load(shards.folder), 0)
    assert len(verify(shards.folder).problems) == 2


def members_of(index: ShardIndex, number: int) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(index.read_bytes(number) + bytes(1024))) as archive:
        return {
            member.name.split(".", 1)[1]: archive.extractfile(member).read()
            for member in archive.getmembers()
        }


def test_samples_whose_checksum_holds_but_whose_content_is_wrong(shards, tmp_path):
    def store(members: dict[str, bytes], num_frames: int) -> ShardIndex:
        sample = encode_members("00000000", members)
        record = sample.record.model_copy(update={"num_frames": num_frames, "num_path_frames": 9})
        sample = dataclasses.replace(sample, record=record, height=16, width=24)
        with ShardWriter(tmp_path / "made", existing="overwrite", expected=1) as writer:
            writer.add(sample)
        return ShardIndex.load(tmp_path / "made")

    intact = members_of(shards, 0)
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, format="PNG")
    grey = io.BytesIO()
    Image.new("L", (24, 16)).save(grey, format="PNG")
    cameras = json.loads(intact["cameras.json"])
    fewer = {**cameras, "intrinsics": cameras["intrinsics"][:-1]}
    for changed, num_frames, message in [
        ({"003.png": intact["003.png"][:-200]}, 12, "003.png does not decode"),
        ({"003.png": b"not an image"}, 12, "003.png does not decode"),
        ({"003.png": small.getvalue()}, 12, "003.png is 8x8 but the cameras say 16x24"),
        ({"003.png": grey.getvalue()}, 12, "003.png is a L image, expected RGB"),
        ({"003.png": None}, 11, "11 frames, 12 cameras"),
        ({"cameras.json": None}, 12, "cameras.json is missing"),
        ({"cameras.json": b"{}"}, 12, "cameras.json is missing or malformed"),
        ({"cameras.json": json.dumps(fewer).encode()}, 12, "12 poses of .* but 11 intrinsics"),
        ({"depth.safetensors": b"\xff" * 80}, 12, "depth.safetensors does not decode"),
    ]:
        members = {name: value for name, value in (intact | changed).items() if value is not None}
        index = store(members, num_frames)
        with pytest.raises(DamagedSample, match=message):
            read_clip(index, 0)
        assert len(verify(index.folder).problems) == 1


def test_a_missing_folder_or_index_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="no such folder of shards"):
        ShardIndex.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no index.json"):
        ShardIndex.load(tmp_path)


# Tensors beside the clips.


def latents(number: int) -> dict[str, torch.Tensor]:
    return {"latents": torch.full((2, 3), float(number), dtype=torch.bfloat16)}


def test_tensors_are_stored_beside_the_clips_and_resumed(shards):
    def write(existing: str, stop_after: int | None = None) -> None:
        recipe = {"weights": "abc"}
        with tensor_writer(shards, "latents", recipe=recipe, existing=existing) as writer:
            for number in writer.numbers():
                if number == stop_after:
                    raise KeyboardInterrupt
                writer.add_tensors(latents(number))

    with pytest.raises(KeyboardInterrupt):
        write("refuse", stop_after=5)
    assert "latents-000000.tar" in names(shards.folder)
    with pytest.raises(UserError, match="unfinished"):
        read_tensors(shards, 0, "latents")
    write("resume")
    assert torch.equal(read_tensors(shards, 5, "latents")["latents"], latents(5)["latents"])
    assert torch.equal(open_clip(shards, 6).tensors("latents")["latents"], latents(6)["latents"])
    assert read_clip(ShardIndex.load(shards.folder), 6).source == "test/0006"


def test_tensors_of_other_clips_or_too_few_are_refused(shards, make_clip):
    with (
        pytest.raises(UserError, match="1 sets of tensors 'latents' for the 7 that were announced"),
        tensor_writer(shards, "latents", recipe={}) as writer,
    ):
        writer.add_tensors(latents(0))
    with tensor_writer(shards, "latents", recipe={}) as writer:
        for number in range(7):
            writer.add_tensors(latents(number))
    changed = write_shards(
        (make_clip(50 + seed) for seed in range(7)), shards.folder, existing="overwrite"
    )
    with pytest.raises(UserError, match=r"latents.index.json: was made for other clips"):
        read_tensors(changed, 0, "latents")
    with pytest.raises(UserError, match="can't be named 'shard'"):
        tensor_writer(changed, "shard", recipe={})


def test_damaged_tensors_are_named(shards):
    with tensor_writer(shards, "latents", recipe={}) as writer:
        for number in range(7):
            writer.add_tensors(latents(number))
    tensors = shards.tensors("latents")
    flip_byte(tensors.folder / "latents-000000.tar", tensors.locate(2)[1].offset + 600)
    with pytest.raises(DamagedSample, match=r"latents-000000.tar: sample 00000002 .*checksum"):
        open_clip(shards, 2).tensors("latents")
    problems = verify(shards.folder).problems
    assert len(problems) == 2 and all("latents-000000.tar" in problem for problem in problems)


def test_many_shards_do_not_keep_many_files_open(make_shards):
    index = make_shards(40, clips_per_shard=1)
    for number in range(40):
        open_clip(index, number)
    own = [
        link
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and str(index.folder) in str(link.readlink())
    ]
    assert 0 < len(own) <= 32
    shutil.rmtree(index.folder)

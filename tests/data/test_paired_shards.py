"""Clips and their tensors written side by side: one content, however often the writing was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from data.clips import Clip
from data.paired_shards import PairedWriter
from data.shard_index import ShardIndex
from data.shards import read_clip, read_tensors, verify
from data.work_share import WorkShare

NUM = 5


def clip(number: int) -> Clip:
    frames = torch.full((2, 3, 8, 8), number / 16)
    cameras = Cameras(
        torch.eye(4).repeat(2, 1, 1), intrinsics_from_fov(50.0, 8, 8).expand(2, 3, 3), 8, 8
    )
    return Clip(frames, cameras, f"clip/{number}", 2)


def write(folder: Path, *, stop_after: int = 99, num: int = NUM, **options: object) -> int:
    """Writes what is missing and returns where it started; KeyboardInterrupt after so many clips."""
    writer = PairedWriter(
        folder, "latents", recipe={"seed": 1}, tensors_recipe={"codec": "a"}, expected=num,
        clips_per_shard=2, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    with writer:
        first = writer.num_done
        for number in writer.numbers():
            if number >= stop_after:
                raise KeyboardInterrupt
            writer.add(number, clip(number), {"x": torch.full((3,), float(number))})
    return first


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    assert write(tmp_path / "whole") == 0
    return contents(tmp_path / "whole")


def check(folder: Path) -> None:
    index = ShardIndex.load(folder)
    assert verify(folder).problems == []
    for number in range(len(index)):
        assert read_clip(index, number).source == f"clip/{number}"
        assert float(read_tensors(index, number, "latents")["x"][0]) == number


def test_tensors_belong_to_their_clips(whole, tmp_path: Path) -> None:
    check(tmp_path / "whole")
    index = ShardIndex.load(tmp_path / "whole")
    assert index.tensors("latents").content.recipe == {"clips": index.fingerprint, "codec": "a"}


@pytest.mark.parametrize("stop_after", range(NUM))
def test_it_goes_on_to_the_same_bytes(whole, tmp_path: Path, stop_after: int) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write(folder, stop_after=stop_after)
    if folder.exists():
        with pytest.raises(UserError, match="unfinished|no index"):
            ShardIndex.load(folder)
    assert write(folder, existing="resume") == stop_after // 2 * 2
    assert contents(folder) == whole


@pytest.mark.parametrize("ahead", ["shard", "latents"])
@pytest.mark.parametrize("ends", [False, True])
def test_what_one_set_lacks_is_made_again_for_both(
    whole, tmp_path: Path, ahead: str, ends: bool
) -> None:
    """As after a kill between the shards of the two sets, or between their last steps."""
    folder, behind = tmp_path / "uneven", tmp_path / "behind"
    for place, stop in ((folder, 99 if ends else 4), (behind, 4 if ends else 2)):
        try:
            write(place, stop_after=stop)
        except KeyboardInterrupt:
            assert stop < 99
    other = {"shard": "latents", "latents": "shard"}[ahead]
    names = {"shard": ("index.json", "unfinished.json")}
    names["latents"] = ("latents.index.json", "latents.unfinished.json")
    for path in [*folder.glob(f"{other}-*"), *(folder / name for name in names[other])]:
        path.unlink(missing_ok=True)
    for path in [*behind.glob(f"{other}-*"), *(behind / name for name in names[other])]:
        if path.exists():
            path.rename(folder / path.name)
    assert write(folder, existing="resume") == (4 if ends else 2)
    assert contents(folder) == whole


def test_two_processes_give_the_bytes_of_one(whole, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    write(folder, share=WorkShare(1, 2))
    with pytest.raises(UserError, match="unfinished"):
        ShardIndex.load(folder)
    assert not (folder / "latents.index.json").exists()
    write(folder, share=WorkShare(0, 2))
    assert contents(folder) == whole


def test_a_finished_folder_is_left_alone_or_added_to(whole, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    with pytest.raises(UserError, match="already holds finished shards; add --resume"):
        write(folder)
    assert write(folder, existing="resume") == NUM
    assert contents(folder) == whole
    assert write(folder, existing="resume", num=8) == 4
    check(folder)
    assert len(ShardIndex.load(folder)) == 8
    assert write(folder, existing="overwrite") == 0
    assert contents(folder) == whole


def test_another_recipe_is_refused(whole, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="codec was a, now it is b"):
        PairedWriter(
            tmp_path / "whole", "latents", recipe={"seed": 1}, tensors_recipe={"codec": "b"},
            expected=NUM, clips_per_shard=2, existing="resume",
        ).__enter__()  # fmt: skip

"""Ten of a hundred shards are damaged in several ways: all are counted and named, and too many end the run."""

from __future__ import annotations

import os
import random
import re

import pytest
import torch

from configs.errors import EXIT_USER, UserError
from data import prepare
from data.loader import ClipLoader, Damage
from data.shard_index import ShardIndex
from data.shard_samples import ShardClip

DAMAGED = (3, 14, 15, 26, 35, 58, 79, 89, 93, 97)


@pytest.fixture
def hundred(make_shards) -> ShardIndex:
    index = make_shards(num_clips=100, clips_per_shard=1)
    chance = random.Random(0)
    for kind, number in enumerate(DAMAGED):
        path = index.folder / f"shard-{number:06d}.tar"
        content = bytearray(path.read_bytes())
        sample = index.content.shards[number].samples[0]
        at = sample.offset + chance.randrange(512, sample.size - 1024)
        if kind % 4 == 0:
            path.unlink()
        elif kind % 4 == 1:
            os.truncate(path, at)
        elif kind % 4 == 2:
            content[at] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
        else:
            content[at : at + 64] = bytes(64)
            path.write_bytes(content)
    return index


def number(clip: ShardClip, generator: torch.Generator) -> dict[str, torch.Tensor]:
    clip.load([0], depth=False)
    return {"number": torch.tensor(int(clip.source.removeprefix("test/")))}


def read_epoch(index: ShardIndex, rank: int, share: float) -> tuple[set[int], list[Damage]]:
    """What one of two ranks gets and misses in the first fifty batches, in which every clip comes once."""
    loader = ClipLoader(
        index, batch_size=2, seed=1, transform=number, rank=rank, world_size=2, max_damaged_share=share
    )  # fmt: skip
    with loader:
        return {int(next(loader)["number"]) for _ in range(50)}, loader.damaged


def test_check_counts_and_names_each(hundred: ShardIndex, capsys) -> None:
    assert prepare.main(["--check", str(hundred.folder)]) == EXIT_USER
    errors = capsys.readouterr().err
    named = {int(found) for found in re.findall(r"shard-0000(\d\d)\.tar", errors)}
    assert named == set(DAMAGED)
    assert len(errors.splitlines()) >= len(DAMAGED)


def test_training_reads_all_others_and_names_each(hundred: ShardIndex) -> None:
    got, missed = zip(*(read_epoch(hundred, rank, 0.1) for rank in range(2)), strict=True)
    assert set().union(*got) == set(range(100)) - set(DAMAGED)
    together = set(missed[0]) | set(missed[1])
    assert {damage.number for damage in together} == set(DAMAGED)
    named = {int(re.findall(r"shard-0000(\d\d)\.tar", damage.message)[0]) for damage in together}
    assert named == set(DAMAGED)
    # Each rank alone has met too few to stop; together they are just what a tenth allows.
    with ClipLoader(
        hundred, batch_size=2, seed=1, transform=number, max_damaged_share=0.1
    ) as loader:
        loader.check_damage(together)
    with (
        ClipLoader(
            hundred, batch_size=2, seed=1, transform=number, max_damaged_share=0.09
        ) as loader,
        pytest.raises(
            UserError, match=r"10 of 100 clips are damaged, more than the .* 0\.09"
        ) as caught,
    ):
        loader.check_damage(together)
    assert all(f"shard-{number:06d}.tar" in str(caught.value) for number in DAMAGED)


def test_training_stops_above_the_default_share(hundred: ShardIndex) -> None:
    loader = ClipLoader(hundred, batch_size=2, seed=1, transform=number)
    with loader, pytest.raises(UserError, match="2 of 100 clips are damaged, more than .* 0.01"):
        list(loader)

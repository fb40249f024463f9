"""The loader's order is a function of (seed, position) alone, and damage is counted and named."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from data import loader as loader_module
from data.loader import ClipLoader, mixture
from data.shard_index import ShardIndex
from data.shard_samples import ShardClip

ROOT = Path(__file__).parents[2]

# More workers than cores are meant here.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def transform(clip: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
    """Which clip it is, two frames chosen at random, and a random number."""
    views = torch.randperm(clip.num_frames, generator=generator)[:2]
    return {
        "number": torch.tensor(int(clip.source.removeprefix("test/"))),
        "views": views,
        "frames": clip.load(views.tolist(), depth=False).frames,
        "noise": torch.rand(3, generator=generator),
    }


def batches(index, count: int, **options) -> list[dict[str, Tensor]]:
    settings = {"batch_size": 4, "seed": 5, "transform": transform} | options
    with ClipLoader(index, **settings) as loader:
        return list(itertools.islice(loader, count))


def same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def damage(index: ShardIndex, number: int) -> None:
    shard, sample = index.locate(number)
    path = index.folder / shard.file
    content = bytearray(path.read_bytes())
    content[sample.offset + 700] ^= 1
    path.write_bytes(content)


# Order.


def test_batches_do_not_depend_on_the_number_of_workers(shards):
    alone = batches(shards, 6)
    assert same(alone, batches(shards, 6, num_workers=1))
    assert same(alone, batches(shards, 6, num_workers=4))
    assert alone[0]["frames"].shape == (4, 2, 3, 16, 24)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_batches_of_two_ranks_are_the_halves_of_one(shards, num_workers):
    alone = batches(shards, 5)
    ranks = [
        batches(shards, 5, rank=rank, world_size=2, num_workers=num_workers) for rank in range(2)
    ]
    joined = [
        {name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(*ranks, strict=True)
    ]
    assert same(alone, joined)


def test_a_run_is_taken_up_at_any_batch(shards):
    whole = batches(shards, 9)
    for start in range(9):
        assert same(whole[start:], batches(shards, 9 - start, start=start))
    assert same(whole[4:], batches(shards, 5, start=4, num_workers=2))
    with ClipLoader(shards, batch_size=4, seed=5, transform=transform, start=3) as loader:
        next(loader)
        assert loader.position == 4


def test_each_epoch_has_every_clip_once_in_another_order(shards):
    numbers = torch.cat([b["number"] for b in batches(shards, 7)]).tolist()
    epochs = [tuple(numbers[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_another_seed_gives_other_samples(shards):
    assert not same(batches(shards, 3), batches(shards, 3, seed=6))


def test_a_clip_that_comes_again_is_transformed_otherwise(shards):
    seen = {}
    for batch in batches(shards, 7):
        for number, noise in zip(batch["number"].tolist(), batch["noise"], strict=True):
            assert not any(torch.equal(noise, other) for other in seen.get(number, []))
            seen.setdefault(number, []).append(noise)
    assert all(len(noises) == 4 for noises in seen.values())


# Several sources.


def test_a_mixture_does_not_depend_on_workers_or_ranks(make_shards, tmp_path):
    sources = [(make_shards(5, "a"), 1.0), (make_shards(7, "b"), 2.0)]
    alone = batches(sources, 5)
    assert same(alone, batches(sources, 5, num_workers=2))
    halves = [batches(sources, 5, rank=rank, world_size=2) for rank in range(2)]
    assert same(
        alone, [{n: torch.cat([a[n], b[n]]) for n in a} for a, b in zip(*halves, strict=True)]
    )


def test_folders_share_samples_by_their_clips_unless_told(make_shards):
    small, large = make_shards(2, "small"), make_shards(6, "large")
    assert [share for _, share in mixture([small, large])] == [2.0, 6.0]
    assert [share for _, share in mixture([small, large], [0.5, 0.5])] == [0.5, 0.5]
    with pytest.raises(UserError, match="data_weights has 1 numbers for 2 shard folders"):
        mixture([small, large], [1.0])


def test_impossible_sources_and_batches_are_refused(shards):
    for weights in [(1.0, 0.0), (1.0, -2.0)]:
        with pytest.raises(UserError, match="expected all of them positive"):
            batches([(shards, weight) for weight in weights], 1)
    with pytest.raises(UserError, match="one is under a 1000th"):
        batches([(shards, 1.0), (shards, 1e-6)], 1)
    with pytest.raises(UserError, match="batch size 3 does not divide among 2 processes"):
        batches(shards, 1, batch_size=3, world_size=2)


# Damage.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_clip_is_replaced_by_the_next_one_and_named_once(
    make_shards, caplog, num_workers
):
    intact = torch.cat([b["number"] for b in batches(make_shards(name="twin"), 7)]).tolist()
    index = make_shards()
    damage(index, 4)
    with (
        caplog.at_level(logging.WARNING),
        ClipLoader(
            index,
            batch_size=4,
            seed=5,
            transform=transform,
            num_workers=num_workers,
            max_damaged_share=0.2,
        ) as loader,
    ):
        numbers = torch.cat([next(loader)["number"] for _ in range(7)]).tolist()
        assert [(entry.source, entry.number) for entry in loader.damaged] == [(0, 4)]
    assert "shard-000001.tar: sample 00000004" in loader.damaged[0].message
    assert caplog.text.count("sample 00000004") == 1
    for position, (expected, found) in enumerate(zip(intact, numbers, strict=True)):
        epoch = position // 7 * 7
        successor = intact[epoch + (position - epoch + 1) % 7]
        assert found == (successor if expected == 4 else expected)


def test_damage_gives_the_same_batches_whatever_the_workers_or_ranks(make_shards):
    index = make_shards()
    damage(index, 0)
    damage(index, 5)
    options = {"max_damaged_share": 0.5}
    alone = batches(index, 7, **options)
    assert same(alone, batches(index, 7, num_workers=4, **options))
    halves = [batches(index, 7, rank=rank, world_size=2, **options) for rank in range(2)]
    assert same(
        alone, [{n: torch.cat([a[n], b[n]]) for n in a} for a, b in zip(*halves, strict=True)]
    )
    assert same(alone[3:], batches(index, 4, start=3, **options))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_more_damage_than_allowed_stops_the_run_and_names_it(make_shards, num_workers):
    index = make_shards()
    damage(index, 1)
    damage(index, 6)
    with pytest.raises(UserError, match=r"2 of 7 clips are damaged, more than") as caught:
        batches(index, 7, max_damaged_share=0.15, num_workers=num_workers)
    assert "00000001" in str(caught.value) and "00000006" in str(caught.value)
    assert "or raise task.max_damaged_share:" in str(caught.value)  # as recipes name it
    with pytest.raises(UserError, match="1 of 7 clips are damaged"):
        batches(index, 7)


def test_shards_that_went_missing_stop_the_run(make_shards):
    index = make_shards()
    for shard in index.content.shards:
        (index.folder / shard.file).unlink()
    with pytest.raises(UserError, match="the shard is missing"):
        batches(index, 1)


# What a transform may do wrong.


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_in_a_transform_stays_one_sentence(shards, num_workers):
    def refuse(clip: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        raise UserError(f"{clip.source}: too short")

    with pytest.raises(UserError, match=r"^test/\d+: too short$"):
        batches(shards, 1, transform=refuse, num_workers=num_workers)


def test_tensors_of_different_shape_are_refused(shards):
    def ragged(clip: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.zeros(1 + int(clip.source[-1]) % 2)}

    with pytest.raises(UserError, match="clips of one batch give 'x' of shapes"):
        batches(shards, 3, transform=ragged)


def test_too_little_shared_memory_is_said_before_any_worker_dies_of_it(shards, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(UserError, match=r"/dev/shm: 2 loader workers need [\d,]+ bytes"):
        batches(shards, 1, num_workers=2)


# Ends.


def children() -> set[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed}


def test_closing_ends_the_workers(shards):
    before = children()
    loader = ClipLoader(shards, batch_size=4, seed=5, transform=transform, num_workers=2)
    next(loader)
    assert len(children() - before) == 2
    loader.close()
    assert not children() - before
    with pytest.raises(StopIteration):
        next(loader)


def test_forgetting_a_loader_ends_its_workers(shards):
    before = children()
    loader = ClipLoader(shards, batch_size=4, seed=5, transform=transform, num_workers=2)
    next(loader)
    del loader
    gc.collect()
    assert not children() - before


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from data.loader import ClipLoader
from data.shards import ShardIndex
def transform(clip, generator):
    return {"frames": clip.load([0]).frames}
loader = ClipLoader(ShardIndex.load(sys.argv[2]), batch_size=2, seed=0, transform=transform, num_workers=2)
next(loader)
if sys.argv[3] == "abandon":
    sys.exit(7)
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(True))
print("ready", flush=True)
while not told:
    next(loader)
    time.sleep(0.01)
for _ in range(20):
    next(loader)
sys.exit(8)
"""


def start_script(index: ShardIndex, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(ROOT), str(index.folder), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_process_ends_with_a_loader_left_open(shards):
    process = start_script(shards, "abandon")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (7, "")


def test_ctrl_c_is_left_to_the_parent_while_its_workers_go_on(shards):
    process = start_script(shards, "go on")
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (8, "")


def test_one_sigterm_to_the_group_leaves_workers_alive_a_second_ends_them():
    child = os.fork()
    if child == 0:
        loader_module._start_worker(0)
        time.sleep(60)
        os._exit(1)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from train import checkpoints, tensor_files
from train.checkpoints import Checkpoint, CheckpointFolder, find_damage
from train.ranks import Ranks
from train.tensor_files import Entry


def tensors_of(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(5, 3, generator=generator) for name in ("a.weight", "a.bias", "b")}


def save(folder: Path, step: int, keep: int = 3) -> Path:
    tensors = tensors_of(step)
    entries = {
        "model": [Entry.of(name, value) for name, value in tensors.items()],
        "optimizer": [Entry.of("b/step", torch.tensor(float(step)))],
    }
    return CheckpointFolder(folder, Ranks(), keep).save(step, {"step": step, "pi": 0.1}, entries)


def newest(folder: Path, said: list[str] | None = None) -> Checkpoint | None:
    say: Callable[[str], Any] = (said if said is not None else []).append
    return CheckpointFolder(folder, Ranks(), 3, say).newest()


def assert_holds_exactly(found: Checkpoint | None, step: int) -> None:
    assert found is not None and found.step == step
    assert found.state == {"step": step, "pi": 0.1}
    assert found.tensors("optimizer")["b/step"] == step
    saved = found.tensors("model")
    assert set(saved) == set(tensors_of(step))
    for name, value in tensors_of(step).items():
        assert torch.equal(saved[name], value)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    save(tmp_path, 7)
    assert_holds_exactly(newest(tmp_path), 7)


def test_the_newest_k_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003", "step_00000010"]
    assert_holds_exactly(newest(tmp_path), 10)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("repeats", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_at_any_line_of_a_save_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, repeats: bool
) -> None:
    """Forks a child for each line that a save executes, and kills it there.

    repeats: at each execution of each line, not only at its first.
    """
    save(tmp_path / "before", 1)
    save(tmp_path / "before", 2)
    outcomes = []
    line = 0
    finished = False
    while not finished:
        line += 1
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(line))
        child = os.fork()
        if child == 0:
            try:
                sys.settrace(KillAtLine(line, repeats))
                save(folder, 3, keep=2)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        finished = os.WIFEXITED(status)
        for published in folder.glob("step_????????"):
            assert find_damage(published) is None
        found = newest(folder)
        assert found is not None
        assert_holds_exactly(found, found.step)
        outcomes.append(found.step)
        assert not list(folder.glob("*.tmp"))
        shutil.rmtree(folder)
    # Some lines came before the new one was there and some after; never was it gone again.
    assert outcomes == sorted(outcomes) and set(outcomes) == {2, 3}
    assert line > 60


class KillAtLine:
    """A trace function that kills the process at the nth line executed in the checkpoint code."""

    def __init__(self, number: int, repeats: bool) -> None:
        self.left, self.repeats = number, repeats
        self.seen: set[tuple[str, int]] = set()
        self.files = {
            checkpoints.__file__,
            tensor_files.__file__,
            sys.modules["data.durable_files"].__file__,
        }

    def __call__(self, frame: FrameType, event: str, argument: object) -> KillAtLine | None:
        if frame.f_code.co_filename not in self.files:
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and (self.repeats or place not in self.seen):
            self.seen.add(place)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def test_any_changed_byte_is_found_and_the_one_before_is_taken(tmp_path: Path) -> None:
    save(tmp_path / "good", 1)
    save(tmp_path / "good", 2)
    chance = random.Random(3)
    for trial in range(200):
        folder = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", folder)
        victim = chance.choice(sorted((folder / "step_00000002").iterdir()))
        content = bytearray(victim.read_bytes())
        at = chance.randrange(len(content))
        kind = ("flipped", "zeroed", "truncated")[trial % 3]
        if kind == "flipped":
            content[at] ^= 1 << chance.randrange(8)
        elif kind == "zeroed":
            content[at] = 0 if content[at] else 1
        else:
            content = content[:at]
        victim.write_bytes(content)
        said: list[str] = []
        assert_holds_exactly(newest(folder, said), 1)
        assert len(said) == 1 and "falling back to step_00000001" in said[0], (victim, at, kind)
        assert (folder / "damaged_step_00000002").exists()
        assert not (folder / "step_00000002").exists()
        shutil.rmtree(folder)


@pytest.mark.parametrize("change", ["missing", "added", "renamed"])
def test_missing_added_and_renamed_files_are_found(tmp_path: Path, change: str) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    if change == "missing":
        (folder / "optimizer-0.safetensors").unlink()
    elif change == "added":
        (folder / "model-1.safetensors").write_bytes(b"")
    else:
        folder = folder.rename(tmp_path / "step_00000009")
    assert find_damage(folder) is not None
    assert_holds_exactly(newest(tmp_path), 1)


def test_with_no_good_checkpoint_left_the_run_does_not_start_over_in_silence(
    tmp_path: Path,
) -> None:
    folder = save(tmp_path, 2)
    (folder / "state.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"no checkpoint verifies \(step_00000002: state.json was changed\)"
    ):
        newest(tmp_path)
    assert folder.exists()


@pytest.mark.parametrize("number", range(1, 8))
def test_a_full_disk_at_any_sync_is_one_sentence_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save(tmp_path, 1)
    calls = 0
    real = os.fsync

    def fsync(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    try:
        save(tmp_path, 2)
    except UserError as error:
        message = str(error)
        assert f"{tmp_path}/step_00000002.tmp" in message and "184 bytes needed" in message
        assert message.endswith("continue with resume=auto; step_00000001 is whole")
        if number <= 5:  # the sixth syncs the parent folder, after the rename
            assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001"]
        assert find_damage(tmp_path / "step_00000001") is None
    else:
        assert number > calls


def test_too_little_space_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"184 bytes needed, 100 free"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    bad = torch.ones(3)
    bad[1] = torch.nan
    folder = CheckpointFolder(tmp_path, Ranks(), 3)
    with pytest.raises(UserError, match=r"a\.weight has NaN or infinite values"):
        folder.save(1, {}, {"model": [Entry.of("a.weight", bad)]})
    assert list(tmp_path.iterdir()) == []

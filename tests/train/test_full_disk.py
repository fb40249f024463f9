"""A disk that is really full: a small file system in memory, mounted where two processes write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from namespaces import shell_in_namespaces
from toy_run import ToyRun

from train.checkpoints import find_damage

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

NewToy = Callable[[str], ToyRun]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of 1 MB, as this process sees it, and what processes need that are to see it at `tmp_path`/disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{folder}' && echo $$ && read line"
    with shell_in_namespaces(["--mount"], mount) as (process,):
        yield Path(f"/proc/{process}/root{folder}"), {"NAMESPACES_OF_PROCESS": process}


@pytest.mark.parametrize(
    ("left", "fails_at"),
    [
        pytest.param(0, "tensorboard", marks=pytest.mark.slow),
        (4096, "checkpoints/step_00000012.tmp"),
        pytest.param(12288, "checkpoints/step_00000012.tmp", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_is_one_sentence_and_the_old_checkpoint_stays(
    toy: NewToy, disk: tuple[Path, dict[str, str]], left: int, fails_at: str
) -> None:
    """left: bytes that stay free. 12288 seem enough for a checkpoint, which then fails amid its files."""
    run, (folder, place) = toy("run"), disk
    log_every = "loop.log_every=1" if left == 0 else "loop.log_every=12"
    settings = (f"runs_root={run.root}/disk", log_every, "loop.validate_every=24", "resume=auto")
    fault = (
        "task.fault.kind=full", f"task.fault.marker={run.root}/disk/others", "task.fault.batches=[21]",
        f"task.fault.left={left}",
    )  # fmt: skip
    hosts = [place, place]
    codes = run.join(run.spawn_ranks(2, *settings, *fault, hosts=hosts))
    errors = [line for line in run.log.read_text().splitlines() if line.startswith("error: ")]
    assert codes[0] == 2 and errors, run.log.read_text()
    assert len(set(errors)) == 1
    path, sentence = errors[0].removeprefix("error: ").split(": the disk is full: ")
    assert path == f"{run.root}/disk/run/{fails_at}"
    assert (
        "bytes needed" in sentence
        and "free; free some space and continue with resume=auto" in sentence
    )
    if "checkpoints" in fails_at:
        assert codes == [2, 2] and errors[0].endswith("step_00000006 is whole")
    checkpoints = folder / "run" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000006"]
    assert find_damage(checkpoints / "step_00000006") is None
    assert not list(folder.rglob("*.tmp"))

    (folder / "others").unlink()
    codes = run.join(run.spawn_ranks(2, *settings, hosts=hosts))
    assert codes == [0, 0], run.log.read_text()

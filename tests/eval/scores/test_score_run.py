"""One folder, several processes: the same lines in the same order, whoever scored what, and whatever was killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from eval.scores.score_run import FORMAT, ScoreConfig, Scored, ScoreRun
from train.ranks import Ranks

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Alone(Ranks):
    """One of several ranks that start together, without the others: nothing is scored yet."""

    def gather(self, value):
        return [value] * self.world_size

    def on_first(self, action):
        return action() if self.is_first else None

    def from_first(self, value):
        return 0, set()


class Squares:
    """Implements `eval.scores.score_run.Score`; two items a batch, one line each."""

    noun, lines_per_item, batch_size, num_items = "number", 1, 2, 7

    def __init__(self, out, fail_at=None, identity="squares"):
        self.config = ScoreConfig(data="none", out=out)
        self.identity = {"kind": identity}
        self.fail_at = fail_at
        self.scored: list[int] = []

    def measure(self, items, pictures, tell):
        if self.fail_at in items:
            raise KeyboardInterrupt
        self.scored += items
        return [
            Scored([{"clip": n, "source": str(n), "value": n * n}], {"add": float(n)})
            for n in items
        ]

    def headline(self, lines):
        return str(lines[0]["value"])

    def summarise(self, lines, seconds):
        return {"total": sum(line["value"] for line in lines)}

    def write_report(self, folder, summary, lines): ...

    def print_scores(self, summary): ...


def whole(tmp_path) -> bytes:
    run = ScoreRun(Squares(tmp_path / "whole"))
    run.run()
    assert run.num_done == 7
    return (tmp_path / "whole" / "clips.jsonl").read_bytes()


def test_ranks_share_the_batches_and_the_first_puts_them_in_order(tmp_path):
    out = tmp_path / "out"
    first = ScoreRun(Squares(out), Alone(0, 2))
    second = ScoreRun(Squares(out), Alone(1, 2))

    def on_item(lines):
        if not second.score.scored:  # while the first is at its first batch
            second.run()

    first.run(on_item)
    assert first.score.scored == [0, 1, 4, 5] and second.score.scored == [2, 3, 6]
    assert (out / "clips.jsonl").read_bytes() == whole(tmp_path)
    assert not (out / "batches").exists()
    rows = [json.loads(row) for row in (out / "seconds.jsonl").read_text().splitlines()]
    assert [row["item"] for row in rows] == list(range(7))


def test_batches_of_a_killed_run_are_kept_with_another_number_of_ranks(tmp_path):
    out = tmp_path / "out"
    ScoreRun(Squares(out), Alone(0, 3))
    ScoreRun(Squares(out), Alone(2, 3)).run()
    with pytest.raises(KeyboardInterrupt):
        ScoreRun(Squares(out, fail_at=2), Alone(1, 3)).run()
    last = ScoreRun(Squares(out))
    last.run()
    assert last.score.scored == [0, 1, 2, 3, 6]
    assert (out / "clips.jsonl").read_bytes() == whole(tmp_path)


def test_batches_of_another_score_are_never_taken(tmp_path):
    out = tmp_path / "out"
    ScoreRun(Squares(out), Alone(0, 2))
    ScoreRun(Squares(out), Alone(1, 2)).run()
    with pytest.raises(UserError, match="other kind"):
        ScoreRun(Squares(out, identity="cubes"))


def test_a_damaged_batch_is_told(tmp_path):
    out = tmp_path / "out"
    ScoreRun(Squares(out))
    (out / "batches").mkdir()
    (out / "batches" / "00000000.json").write_text('{"lines": [')
    with pytest.raises(UserError, match=r"00000000.json is damaged"):
        ScoreRun(Squares(out))


def test_lines_of_another_format_are_refused_with_their_own_sentence(tmp_path):
    out = tmp_path / "out"
    whole = ScoreRun(Squares(out))
    whole.run()
    newer = Squares(out)
    newer.identity[FORMAT] = "2"
    with pytest.raises(
        UserError, match=r"another version .*\(format unknown, .* writes 2\).*restart"
    ):
        ScoreRun(newer)
    newer.config = newer.config.model_copy(update={"restart": True})
    assert ScoreRun(newer).num_done == 0


PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_score_run import Squares
from eval.scores.score_ranks import scoring_ranks
from eval.scores.score_run import ScoreRun
with scoring_ranks() as ranks:
    ScoreRun(Squares(Path(sys.argv[2])), ranks).run()
"""


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    out = tmp_path / "ranks"
    common = {**ENVIRONMENT, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(out)]
    processes = [
        subprocess.Popen(command, env=common | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    assert (out / "clips.jsonl").read_bytes() == whole(tmp_path)
    assert not (out / "batches").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.distributed
def test_torchrun_writes_what_one_process_writes(tmp_path, clip):
    from data.shard_writing import write_shards

    path = clip.select(range(clip.num_path_frames))
    write_shards([path, path.mirrored(), path], tmp_path / "shards")

    def score(out: str, *launcher: str, code: int = 0) -> bytes:
        command = [sys.executable, *launcher, "-m", "eval.score", str(tmp_path / "shards")]
        options = ["--reference", str(tmp_path / "shards"), "--metrics", "images,tsed"]
        process = subprocess.run(
            [*command, *options, "--out", str(tmp_path / out)],
            cwd=ROOT,
            env=ENVIRONMENT,
            check=False,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert process.returncode == code, process.stderr
        assert "Traceback" not in process.stderr
        return (tmp_path / out / "clips.jsonl").read_bytes()

    ranks = ("-m", "train.torchrun", "--standalone", "--nproc-per-node=2")
    assert score("alone") == score("ranks", *ranks)
    tar = next((tmp_path / "shards").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    tar.write_bytes(content)
    assert score("alone_bad", code=2) == score("ranks_bad", *ranks, code=2)

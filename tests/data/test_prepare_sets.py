"""`prepare realestate10k`, `acid` and `dl3dv`: from each layout on disk to shards, alone and by many processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import EXIT_USER, run_command
from data import prepare
from data.captions import read_captions
from data.importers.video import write_video
from data.left_out import read_left_out
from data.prepare_sets import SETS
from data.shard_index import ShardIndex
from data.shards import read_clip, verify

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "48x72", "--frames", "9", "--extra", "2", "--image", "png"]
SEEDS = {"k0": 0, "k1": 1, "k2": 2, "k4": 4}
THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@pytest.fixture
def walks(make_walk):
    return {key: make_walk(seed, 20) for key, seed in SEEDS.items()}


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command line ends in exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_command(prepare.main, argv)
    assert caught.value.code == EXIT_USER
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def check(out: Path, kind: str, walks, check_clip, stride: int = 1) -> None:
    """Two clips of each walk at stride 1, or one at stride 2, whose path frames and cameras are the walk's."""
    index = ShardIndex.load(out)
    assert verify(out).problems == []
    per_scene = 2 if stride == 1 else 1
    assert len(index) == per_scene * len(walks)
    for number in range(len(index)):
        clip = read_clip(index, number)
        key = list(walks)[number // per_scene]
        assert clip.source == f"{kind}/{key}/{number % per_scene:03d}"
        first = 9 * (number % per_scene)
        path = range(first, first + 8 * stride + 1, stride)
        check_clip(clip.select(range(9)), walks[key], path)


# Each layout.


def test_realestate10k_with_images_named_by_timestamp(
    tmp_path, walks, write_camera_file, write_frames, check_clip, capsys
):
    for key, walk in walks.items():
        times = write_camera_file(walk, tmp_path / "train" / f"{key}.txt")
        write_frames(walk, tmp_path / "frames" / key, times)
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"k1.mp4": ["a  kitchen\n"], "k2": "a hall"}))
    argv = ["realestate10k", str(tmp_path / "train"), "--media", str(tmp_path / "frames"), *SMALL]
    argv += ["--strides", "2", "3", "--captions", str(captions), "--out", str(tmp_path / "out")]
    assert prepare.main([*argv, "--workers", "1", "--scenes-per-shard", "2"]) == 0
    check(tmp_path / "out", "realestate10k", walks, check_clip, stride=2)
    index = ShardIndex.load(tmp_path / "out")
    found = [read_clip(index, number).caption for number in range(4)]
    assert found == ["", "a kitchen", "a hall", ""]
    printed = capsys.readouterr().out
    assert "4 of 4 gave clips" in printed and "2 shards" in printed


def test_acid_with_videos(tmp_path, walks, write_camera_file, capsys):
    for key, walk in walks.items():
        write_camera_file(walk, tmp_path / f"{key}.txt")
        write_video(walk.frames, tmp_path / f"{key}.mp4", fps=30)
    argv = ["acid", str(tmp_path), *SMALL, "--workers", "1", "--out", str(tmp_path / "out")]
    assert prepare.main(argv) == 0
    index = ShardIndex.load(tmp_path / "out")
    strides = {"acid/k0", "acid/k1", "acid/k2", "acid/k4"}
    assert {read_clip(index, n).source[:7] for n in range(len(index))} == strides
    for number in range(len(index)):
        clip = read_clip(index, number)
        walk = walks[clip.source.split("/")[1]]
        errors = (walk.frames - clip.frames[0]).square().mean(dim=(1, 2, 3))
        first = int(errors.argmin())
        truth = walk.cameras.select(range(first, 20)).relative_to(0).rescaled(clip.scale).positions
        last = (truth - clip.cameras.positions[8].double()).norm(dim=-1).argmin()
        assert float(errors.min()) < 1e-3 and int(last) in {8, 16}


def test_chunks_are_recognised(tmp_path, walks, write_chunks, check_clip):
    write_chunks(walks, tmp_path / "test")
    argv = ["realestate10k", str(tmp_path / "test"), "--strides", "1", *SMALL]
    assert prepare.main([*argv, "--workers", "1", "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", "realestate10k", walks, check_clip)


def test_dl3dv_folders(tmp_path, walks, write_transforms, check_clip):
    walks = {f"1K/{key}": walk for key, walk in walks.items()}
    for key, walk in walks.items():
        write_transforms(walk, tmp_path / "set" / key)
    argv = ["dl3dv", str(tmp_path / "set"), *SMALL, "--workers", "1"]
    assert prepare.main([*argv, "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out", "dl3dv", walks, check_clip)


# What is wrong with scenes and options.


@pytest.fixture
def broken(tmp_path, walks, write_camera_file, write_frames) -> Path:
    """Camera files in train/ and frames in media/: "k1" is whole, all others have something wrong with them."""
    train, media = tmp_path / "train", tmp_path / "media"
    for key in (*walks, "video", "novideo", "times"):
        walk = walks.get(key, walks["k0"])
        times = write_camera_file(walk, train / f"{key}.txt", address=f"http://x/watch?v=id-{key}")
        if key in walks:
            write_frames(walk, media / key, times)
    lines = (train / "k0.txt").read_text().splitlines()
    (train / "k0.txt").write_text(
        "\n".join([*lines[:9], lines[9].replace(lines[9].split()[1], "0")])
    )
    next((media / "k2").iterdir()).unlink()
    for path in (media / "k4").iterdir():
        path.write_bytes(b"not an image")
    (media / "video.mp4").write_bytes(b"not a video")
    write_video(walks["k0"].frames, media / "id-times.mp4", fps=30)
    return tmp_path


def argv_of(folder: Path, *options: str) -> list[str]:
    argv = ["realestate10k", str(folder / "train"), "--media", str(folder / "media")]
    return [
        *argv,
        "--strides",
        "1",
        *SMALL,
        "--workers",
        "1",
        "--out",
        str(folder / "out"),
        *options,
    ]


def test_bad_scenes_are_left_out_with_their_reasons(broken, capsys):
    assert prepare.main(argv_of(broken)) == 0
    index = ShardIndex.load(broken / "out")
    assert {read_clip(index, n).source.split("/")[1] for n in range(len(index))} == {"k1"}
    entries = read_left_out(broken / "out")
    assert {entry.scene: entry.reason for entry in entries} == {
        "k0": "cameras can't be used",
        "k2": "frames are missing",
        "k4": "frames can't be decoded",
        "novideo": "no video or images",
        "times": "times that the video hasn't",
        "video": "frames can't be decoded",
    }
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 7 gave clips" in printed
    assert "left out: cameras can't be used │ 1 scenes" in printed
    assert "left_out.jsonl" in printed


def test_where_nothing_is_left_it_is_one_sentence(broken, capsys):
    (broken / "train" / "k1.txt").unlink()
    message = fails(argv_of(broken), capsys)
    assert (
        "nothing is left of 6 scenes" in message and "left_out.jsonl there tells of each" in message
    )
    assert not (broken / "out" / "index.json").exists()


@pytest.mark.parametrize("kind", SETS)
def test_empty_folders_are_one_sentence(tmp_path, kind, capsys):
    out = tmp_path / "out"
    message = fails([kind, str(tmp_path), *SMALL, "--out", str(out)], capsys)
    assert "has no camera files" in message or "has no scenes" in message
    assert "no such folder" in fails([kind, str(tmp_path / "x"), *SMALL, "--out", str(out)], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "48"], "--frames is 48; expected 8k+1"),
        (["--rank", "3", "--world-size", "2"], "rank 3 of 2"),
        (["--rank", "0", "--world-size", "2", "--overwrite"], "--overwrite is for one process"),
        (["--captions", "none.json"], "none.json can't be read"),
    ],
)
def test_mistakes_in_options_make_nothing(broken, capsys, options, message):
    assert message in fails(argv_of(broken, *options), capsys)
    assert not (broken / "out").exists()
    for bad in (["--overlap", "1"], ["--min-travel", "-1"], ["--strides", "0"]):
        with pytest.raises(SystemExit) as caught:
            prepare.main(argv_of(broken, *bad))
        assert caught.value.code == EXIT_USER


def test_captions_are_text(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"a": ["x", "y"], "b.txt": " z "}))
    assert read_captions(path) == {"a": "x", "b": "z"}
    for wrong in ({"a": 3}, {"a": []}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(Exception, match="the caption of 'a' is"):
            read_captions(path)


@pytest.mark.parametrize("kind", SETS)
def test_help_tells_layouts_and_reasons(kind, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main([kind, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "index.json" in text and "left_out.jsonl" in text and "--world-size" in text
    assert " ".join(map(str, SETS[kind].strides)) in text


# Many processes.


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def command(argv: list[str]) -> list[str]:
    return [sys.executable, "-m", "data.prepare", *argv]


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_and_workers_give_the_bytes_of_one_process(tmp_path, walks, write_chunks):
    write_chunks(walks, tmp_path / "set")
    argv = ["realestate10k", str(tmp_path / "set"), "--strides", "1", "2", *SMALL]
    argv += ["--scenes-per-shard", "1", "--out"]
    assert prepare.main([*argv, str(tmp_path / "one"), "--workers", "1"]) == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*torchrun, "-m", "data.prepare", *argv, str(tmp_path / "two"), "--workers", "2"],
        cwd=ROOT, env=os.environ | THREADS, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert done.stdout.count("has done its share") in {0, 1}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_a_job_array_that_is_killed_again_and_again_ends_in_the_same_bytes(
    tmp_path, walks, write_chunks
):
    """Two array tasks, each killed without warning at random moments until both have ended by themselves."""
    many = {f"{key}_{n}": walk for n in range(3) for key, walk in walks.items()}
    write_chunks(many, tmp_path / "set")
    argv = ["realestate10k", str(tmp_path / "set"), "--strides", "1", *SMALL]
    argv += ["--scenes-per-shard", "1", "--workers", "1", "--out"]
    assert prepare.main([*argv, str(tmp_path / "one")]) == 0
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    draw = random.Random(0)
    waiting, kills = [0, 1], 0
    while waiting:
        started = {
            rank: subprocess.Popen(
                command([*argv, str(tmp_path / "two")]),
                cwd=ROOT,
                env=os.environ | THREADS | array | {"SLURM_ARRAY_TASK_ID": str(rank)},
                stdout=subprocess.PIPE,
            )
            for rank in waiting
        }
        if kills < 6:
            before = len(list((tmp_path / "two").glob("*.tar")))
            ended = time.monotonic() + 60
            while len(list((tmp_path / "two").glob("*.tar"))) < before + 1:
                if all(process.poll() is not None for process in started.values()):
                    break
                assert time.monotonic() < ended
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.4))
            for process in started.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
        for rank, process in started.items():
            process.communicate(timeout=100)
            if process.returncode == 0:
                waiting.remove(rank)
            else:
                assert process.returncode == -signal.SIGKILL
    assert kills >= 4
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

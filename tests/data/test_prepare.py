"""The `prepare` command: from each kind of source to shards, and what it says when it can't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs.errors import EXIT_USER, UserError, run_command
from data import prepare
from data.importers import photos
from data.importers.colmap import write_colmap
from data.importers.nerfstudio import write_nerfstudio
from data.importers.photos import RegistrationReport
from data.procedural import clips as procedural_clips
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shards import read_clip

ROOT = Path(__file__).parents[2]
SCENES = ROOT.parent / "shared" / "scenes"
SMALL = ["--size", "16x24", "--frames", "9", "--set", "num_near=1", "num_far=1", "supersampling=1"]


def procedural(out: Path, num_clips: int, *options: str) -> list[str]:
    return ["procedural", "--clips", str(num_clips), "--out", str(out), *SMALL, *options]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command line ends in exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_command(prepare.main, argv)
    assert caught.value.code == EXIT_USER
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# Procedural scenes.


def test_procedural_clips_are_those_of_their_seeds(tmp_path, capsys):
    out = tmp_path / "shards"
    assert prepare.main(procedural(out, 3, "--seed", "40", "--workers", "1")) == 0
    index = ShardIndex.load(out)
    config = SceneConfig(height=16, width=24, num_frames=9, num_near=1, num_far=1, supersampling=1)
    for number in range(3):
        stored = read_clip(index, number)
        made = procedural_clips.make_clip(40 + number, config)
        assert stored.source == made.source
        assert (stored.num_frames, stored.num_path_frames) == (11, 9)
        torch.testing.assert_close(stored.frames, made.frames, rtol=0, atol=0.501 / 255)
        assert torch.equal(stored.cameras.world_to_camera, made.cameras.world_to_camera)
    printed = capsys.readouterr().out
    assert "3 of 16x24" in printed and "40 to 42" in printed
    assert "27 along paths, 6 extra views" in printed


def test_interrupted_procedural_shards_are_gone_on_with(tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    size = ["--clips-per-shard", "2", "--workers", "1"]
    prepare.main(procedural(whole, 5, *size))
    from data import procedural_shards

    make_clip = procedural_shards.make_clip

    def interrupted(seed: int, config: SceneConfig):
        if seed == 3:
            raise KeyboardInterrupt
        return make_clip(seed, config)

    monkeypatch.setattr(procedural_shards, "make_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.main(procedural(stopped, 5, *size))
    assert names(stopped) == ["shard-000000.json", "shard-000000.tar", "unfinished.json"]
    assert "unfinished" in fails(["--check", str(stopped)], capsys)
    made = []
    monkeypatch.setattr(
        procedural_shards,
        "make_clip",
        lambda seed, config: made.append(seed) or make_clip(seed, config),
    )
    prepare.main(procedural(stopped, 5, *size, "--resume"))
    assert made == [2, 3, 4]
    assert ShardIndex.load(stopped).content == ShardIndex.load(whole).content
    prepare.main(procedural(stopped, 5, *size, "--resume"))
    assert made == [2, 3, 4]


def test_procedural_clips_by_two_processes(tmp_path, capsys):
    size = ["--clips-per-shard", "2", "--workers", "1"]
    prepare.main(procedural(tmp_path / "whole", 5, *size))
    for rank in ("1", "0"):
        assert not (tmp_path / "two" / "index.json").exists()
        prepare.main(procedural(tmp_path / "two", 5, *size, "--rank", rank, "--world-size", "2"))
    first, second = (ShardIndex.load(tmp_path / name) for name in ("whole", "two"))
    assert first.content == second.content and names(second.folder) == names(first.folder)
    prepare.main(procedural(tmp_path / "two", 7, *size, "--rank", "1", "--world-size", "2"))
    prepare.main(procedural(tmp_path / "two", 7, *size, "--rank", "0", "--world-size", "2"))
    prepare.main(procedural(tmp_path / "seven", 7, *size))
    grown, whole = (ShardIndex.load(tmp_path / name) for name in ("two", "seven"))
    assert grown.content == whole.content, "a finished folder is added to"


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    prepare.main(procedural(tmp_path / "one", 6, "--workers", "1"))
    prepare.main(procedural(tmp_path / "two", 6, "--workers", "2"))
    first, second = (ShardIndex.load(tmp_path / name) for name in ("one", "two"))
    assert first.content == second.content


def working_command(out: Path) -> subprocess.Popen[str]:
    """`prepare procedural` with two workers, in its own process group, its first shard written."""
    argv = procedural(out, 5000, "--workers", "2", "--clips-per-shard", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "data.prepare", *argv],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "shard-000000.tar").exists():
        time.sleep(0.1)
    return process


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_command(tmp_path):
    process = working_command(tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)  # until the last process that holds stderr has ended
    ended = time.monotonic() + 10
    while group_lives(process.pid):
        assert time.monotonic() < ended
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_command_and_its_workers(tmp_path):
    process = working_command(tmp_path / "out")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    left = names(tmp_path / "out")
    assert "unfinished.json" in left and not [name for name in left if name.endswith(".tmp")]


def test_mistakes_in_procedural_options_make_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert "nearest valid key is num_far" in fails(procedural(out, 1, "--set", "num_fra=2"), capsys)
    argv = ["procedural", "--clips", "1", "--out", str(out), "--frames", "12"]
    assert "--frames is 12; expected 8k+1" in fails(argv, capsys)
    assert not out.exists()
    for bad in (["--size", "64"], ["--size", "60x96"], ["--clips", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as caught:
            prepare.main([*procedural(out, 1), *bad])
        assert caught.value.code == EXIT_USER
    assert not out.exists()


def test_an_existing_folder_is_refused_unless_told(tmp_path, capsys):
    out = tmp_path / "out"
    prepare.main(procedural(out, 1, "--workers", "1"))
    before = (out / "index.json").read_bytes()
    assert "--resume" in fails(procedural(out, 1, "--workers", "1"), capsys)
    other = procedural(out, 1, "--workers", "1", "--seed", "9", "--resume")
    assert "first_seed was 0, now it is 9" in fails(other, capsys)
    assert (out / "index.json").read_bytes() == before
    assert prepare.main([*other[:-1], "--overwrite"]) == 0
    assert read_clip(ShardIndex.load(out), 0).source.endswith("9")


# Captures.


def capture_options(out: Path, *options: str) -> list[str]:
    return ["--out", str(out), "--size", "16x24", "--frames", "9", "--extra", "2", *options]


def test_transforms_become_clips(tmp_path, make_clip, capsys):
    clip = make_clip(1, num_frames=20, num_path_frames=20)
    write_nerfstudio(clip, tmp_path / "capture")
    argv = ["transforms", str(tmp_path / "capture"), *capture_options(tmp_path / "out")]
    assert prepare.main(argv) == 0
    index = ShardIndex.load(tmp_path / "out")
    assert len(index) == 2
    stored = read_clip(index, 1)
    assert (stored.num_frames, stored.num_path_frames) == (11, 9)
    assert torch.equal(stored.frames[:9], clip.frames[9:18])
    expected = clip.cameras.select(range(9, 18)).relative_to(0)
    scaled = stored.cameras.select(range(9)).rescaled(clip.scale / stored.scale)
    torch.testing.assert_close(scaled.world_to_camera, expected.world_to_camera, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        stored.cameras.intrinsics[:9], clip.cameras.intrinsics[9:18], rtol=1e-5, atol=1e-4
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "frames with cameras │ 20" in printed


def test_a_colmap_model_becomes_clips_in_units_of_its_points(tmp_path, make_clip):
    clip = make_clip(1, num_frames=9, num_path_frames=9)
    write_colmap(clip, tmp_path / "capture")
    argv = [
        "colmap",
        str(tmp_path / "capture" / "sparse" / "0"),
        *capture_options(tmp_path / "out"),
    ]
    assert prepare.main(argv) == 0
    stored = read_clip(ShardIndex.load(tmp_path / "out"), 0)
    known = stored.depth[0][stored.depth[0] > 0]
    assert float(known.median()) == pytest.approx(1.0, abs=0.01)
    assert stored.scale == pytest.approx(float(clip.depth[0].median()), rel=0.1)


def test_a_colmap_model_without_images_says_how_to_name_them(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    argv = ["colmap", str(tmp_path / "model"), *capture_options(tmp_path / "out")]
    assert "no folder 'images' in it or above it; name it with --images" in fails(argv, capsys)


def test_photos_that_were_not_placed_are_reported(tmp_path, make_clip, monkeypatch, capsys):
    asked = {}

    def reconstruct(folder, height, width, *, ordered, progress):
        asked.update(folder=folder, size=(height, width), ordered=ordered)
        progress("match", 3, 3)
        report = RegistrationReport(("a.jpg",) * 11, ("lost.jpg",), 2, 345, 0.75)
        return make_clip(1, num_frames=11, num_path_frames=11), report

    monkeypatch.setattr(photos, "reconstruct_photos", reconstruct)
    argv = ["photos", str(tmp_path), *capture_options(tmp_path / "out", "--ordered")]
    assert prepare.main(argv) == 0
    assert asked == {"folder": tmp_path, "size": (16, 24), "ordered": True}
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "11 of 12 photos placed" in printed and "lost.jpg" in printed


def test_video_options_reach_the_reader(tmp_path, make_clip, monkeypatch):
    asked = {}

    def reconstruct(path, height, width, *, max_frames, stride, progress):
        asked.update(max_frames=max_frames, stride=stride)
        report = RegistrationReport(("0",) * 11, (), 1, 345, 0.75)
        return make_clip(1, num_frames=11, num_path_frames=11), report

    monkeypatch.setattr(photos, "reconstruct_video", reconstruct)
    argv = ["video", str(tmp_path / "v.mp4"), *capture_options(tmp_path / "out")]
    assert prepare.main([*argv, "--every", "5", "--max-video-frames", "30"]) == 0
    assert asked == {"max_frames": 30, "stride": 5}


def test_bad_captures_make_nothing(tmp_path, make_clip, capsys):
    out = tmp_path / "out"
    assert "no such file" in fails(
        ["transforms", str(tmp_path / "x"), *capture_options(out)], capsys
    )
    write_nerfstudio(make_clip(1, num_frames=6, num_path_frames=6), tmp_path / "short")
    argv = ["transforms", str(tmp_path / "short"), *capture_options(out)]
    assert "6 usable frames" in fails(argv, capsys)
    (tmp_path / "short" / "images" / "00002.png").unlink()
    assert "missing" in fails(argv, capsys)
    for kind, name in [("photos", "nowhere"), ("video", "nothing.mp4")]:
        assert name in fails([kind, str(tmp_path / name), *capture_options(out)], capsys)
    assert not out.exists()


def test_a_bad_capture_does_not_cost_the_shards_it_would_replace(tmp_path, shards, capsys):
    before = {path.name: path.read_bytes() for path in shards.folder.iterdir()}
    argv = ["transforms", str(tmp_path / "x"), *capture_options(shards.folder, "--overwrite")]
    assert "no such file" in fails(argv, capsys)
    assert {path.name: path.read_bytes() for path in shards.folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brighton_beach", "mary_rose_tankard"])
def test_real_captures(tmp_path, name):
    if not (SCENES / name).is_dir():
        pytest.skip(f"{SCENES / name} is not here")
    assert prepare.main(["transforms", str(SCENES / name), "--out", str(tmp_path / "out")]) == 0
    assert prepare.main(["--check", str(tmp_path / "out")]) == 0


# Checking.


def test_check_passes_whole_shards_and_names_damage(shards, capsys):
    assert prepare.main(["--check", str(shards.folder)]) == 0
    assert "nothing" in capsys.readouterr().out
    path = shards.folder / "shard-000001.tar"
    os.truncate(path, path.stat().st_size // 2)
    assert prepare.main(["--check", str(shards.folder)]) == EXIT_USER
    errors = capsys.readouterr().err
    assert "damaged: " in errors and "shard-000001.tar: sample 00000005" in errors
    assert "no such folder" in fails(["--check", str(shards.folder / "x")], capsys)


def test_a_damaged_clip_is_an_error_with_its_name_and_the_way_to_see_all(shards):
    (shards.folder / "shard-000000.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000000.tar: sample 00000001 .*prepare --check"):
        read_clip(ShardIndex.load(shards.folder), 1)


def test_help_is_quick_and_complete():
    """Nothing heavy is imported for it."""
    code = "import sys, data.prepare as p; p.build_parser(); print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
    text = prepare.build_parser().format_help()
    assert all(word in text for word in ("procedural", "photos", "video", "transforms", "colmap"))

"""Precomputed latents: what is stored, going on after a stop, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.clip_windows import Window, WindowConfig, load_window, window_scale
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shard_writing import write_shards
from data.shards import open_clip, read_tensors, verify
from models.autoencoders.latent_shards import LATENTS, write_latents
from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
from models.prepare_latents import main

SCENES = SceneConfig(height=16, width=24, num_frames=17, num_near=0, num_far=0, supersampling=1)
WINDOWS = WindowConfig(num_frames=9, strides=(1, 2))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    codec = LinearCodec(LinearCodecConfig(latent_channels=4))
    frames = torch.rand(8, 9, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    codec.fit(frames)
    codec.standardise(frames)
    codec.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(seed, SCENES) for seed in range(5)]


@pytest.fixture
def index(clips: list[Clip], tmp_path: Path) -> ShardIndex:
    return write_shards(clips, tmp_path / "shards", clips_per_shard=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("latents*"))}


def test_each_window_has_the_latents_of_its_frames(index, codec) -> None:
    autoencoder = LinearCodec.from_pretrained(codec)
    assert write_latents(index, autoencoder, codec, WINDOWS) == 5
    clip = open_clip(index, 3)
    tensors = clip.tensors(LATENTS)
    expected = {
        Window(0, 1),
        Window(8, 1),
        Window(8, -1),
        Window(16, -1),
        Window(0, 2),
        Window(16, -2),
    }
    expected |= {Window(w.first, w.step, True) for w in expected}
    assert {Window.from_key(key) for key in tensors} - {None} == expected
    for window in expected:
        frames = load_window(clip, window, 9).frames
        assert torch.equal(tensors[window.key], autoencoder.encode(frames[None])[0].half())
        assert float(tensors[window.key + ".scale"]) == pytest.approx(window_scale(clip, window))
    assert verify(index.folder).problems == []


def test_a_stopped_run_goes_on_to_the_same_bytes(index, codec, tmp_path: Path) -> None:
    autoencoder = LinearCodec.from_pretrained(codec)
    write_latents(index, autoencoder, codec, WINDOWS)
    whole = contents(index.folder)
    for path in index.folder.glob("latents*"):
        path.unlink()

    def stop_at_four(clips: int, done: list[int] = []) -> None:  # noqa: B006
        done.append(clips)
        if sum(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(index, autoencoder, codec, WINDOWS, progress=stop_at_four)
    with pytest.raises(UserError, match="unfinished"):
        ShardIndex.load(index.folder, LATENTS)
    assert write_latents(index, autoencoder, codec, WINDOWS, existing="resume") < 5
    assert contents(index.folder) == whole


def test_the_command_writes_them_and_refuses_to_mix(index, codec, capsys) -> None:
    arguments = [str(index.folder), "--autoencoder", str(codec), "--frames", "9", "--unmirrored"]
    assert main(arguments) == 0
    assert "latents of 5 clips (5 of them new)" in capsys.readouterr().out
    assert len(read_tensors(index, 0, LATENTS)) == 2 * 2 * 2
    with pytest.raises(UserError, match="already holds finished shards; add --resume"):
        main(arguments)
    with pytest.raises(UserError, match="made otherwise"):
        main([*arguments, "--forwards-only", "--resume"])
    assert main([*arguments, "--forwards-only", "--overwrite"]) == 0
    assert len(read_tensors(ShardIndex.load(index.folder), 0, LATENTS)) == 2 * 2


def test_two_processes_give_the_bytes_of_one(index, codec, capsys) -> None:
    arguments = [
        str(index.folder),
        "--autoencoder",
        str(codec),
        "--frames",
        "9",
        "--world-size",
        "2",
    ]
    assert main([*arguments[:-2]]) == 0
    whole = contents(index.folder)
    for path in index.folder.glob("latents*"):
        path.unlink()
    capsys.readouterr()
    assert main([*arguments, "--rank", "1"]) == 0
    assert "rank 1 of 2 has done its share (latents of 2 clips" in capsys.readouterr().out
    with pytest.raises(UserError, match="unfinished"):
        ShardIndex.load(index.folder, LATENTS)
    with pytest.raises(UserError, match="hop was 8, now it is 4"):
        main([*arguments, "--rank", "0", "--hop", "4"])
    assert main([*arguments, "--rank", "0"]) == 0
    assert "latents of 5 clips (3 of them new)" in capsys.readouterr().out
    assert contents(index.folder) == whole


def test_mistakes_are_told(index, codec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="17 path frames; 25 frames at stride 1 need 25"):
        main([str(index.folder), "--autoencoder", str(codec), "--frames", "25"])
    assert contents(index.folder) == {}
    with pytest.raises(UserError, match="no such folder of shards"):
        main([str(tmp_path / "none"), "--autoencoder", str(codec)])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--hop", "0"), "argument --hop: '0' is not a whole number of at least 1"),
        (("--hop", "-1"), "argument --hop: '-1' is not a whole number of at least 1"),
        (("--strides", "1", "0"), "argument --strides: '0' is not a whole number of at least 1"),
        (("--frames", "-7"), "argument --frames: '-7' is not a whole number of at least 1"),
    ],
)
def test_numbers_without_meaning_are_refused_and_nothing_is_stored(
    index, codec, capsys, option, message
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(index.folder), "--autoencoder", str(codec), "--frames", "9", *option])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert contents(index.folder) == {}
    with pytest.raises(UserError, match=r"--frames is 16; expected 8k\+1 .* take 9 or 17"):
        main([str(index.folder), "--autoencoder", str(codec), "--frames", "16"])

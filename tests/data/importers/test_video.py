"""Video files: what is written is what PyAV reads elsewhere, and damage is named."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from skimage import data

from configs.errors import UserError
from data.importers.video import iterate_video, read_video, write_video


def moving_frames(num_frames: int = 12, height: int = 64, width: int = 96) -> torch.Tensor:
    """A window that slides over a photograph, four pixels a frame."""
    photo = torch.from_numpy(data.astronaut()[::2, ::2].copy()).movedim(-1, 0).float() / 255
    return torch.stack(
        [photo[:, 10 : 10 + height, 4 * i : 4 * i + width] for i in range(num_frames)]
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    frames = moving_frames()
    write_video(frames, tmp_path / "new/a.mp4", fps=8)
    again = read_video(tmp_path / "new/a.mp4", max_frames=100)
    assert again.shape == frames.shape and again.dtype == torch.float32
    assert psnr(again, frames) > 32
    bias = (again - frames).mean(dim=(0, 2, 3)).abs() * 255
    assert bias.max() < 0.5, "conversion must not darken"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_the_file_is_what_players_expect(tmp_path: Path) -> None:
    write_video(moving_frames(), tmp_path / "a.mp4", fps=23.976)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == pytest.approx(23.976, abs=1e-3)
        assert (stream.height, stream.width, stream.frames) == (64, 96, 12)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "plays before it is loaded"


def test_colours_survive_one_by_one(tmp_path: Path) -> None:
    """Flat colours: no chroma halving to blame, so each must come back within 3 of 255."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0.9, 0.6, 0.3]])
    frames = colours[:, :, None, None].expand(-1, 3, 32, 48)
    write_video(frames, tmp_path / "a.mp4", fps=5)
    again = read_video(tmp_path / "a.mp4", max_frames=5)
    assert (again - frames).abs().max() * 255 < 3


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (33, 47)])
def test_odd_sides_keep_their_pixels(tmp_path: Path, height: int, width: int) -> None:
    frames = moving_frames(3, height, width)
    write_video(frames, tmp_path / "a.mp4", fps=5)
    again = read_video(tmp_path / "a.mp4", max_frames=3)
    assert again.shape == (3, 3, height + height % 2, width + width % 2)
    assert psnr(again[:, :, :height, :width], frames) > 30


def test_stride_and_limit(tmp_path: Path) -> None:
    """Grey levels count the frames."""
    frames = (torch.arange(10) / 10)[:, None, None, None].expand(-1, 3, 32, 32)
    write_video(frames, tmp_path / "a.mp4", fps=5)

    def numbers(max_frames: int | None, stride: int) -> list[int]:
        found = iterate_video(tmp_path / "a.mp4", stride=stride, max_frames=max_frames)
        return [round(float(frame.mean()) * 10) for frame in found]

    assert numbers(None, 1) == list(range(10))
    assert numbers(None, 4) == [0, 4, 8]
    assert numbers(2, 4) == [0, 4]
    assert numbers(1, 7) == [0]
    assert read_video(tmp_path / "a.mp4", max_frames=2, stride=3).shape[0] == 2
    for bad in ({"stride": 0}, {"max_frames": 0}):
        with pytest.raises(UserError, match="expected at least 1"):
            next(iterate_video(tmp_path / "a.mp4", **bad))


@pytest.mark.parametrize(
    ("matrix", "clockwise"),
    [((0, 1, -1, 0), 1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 3), ((1, 0, 0, 1), 0)],
)
def test_phone_videos_are_turned_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], clockwise: int
) -> None:
    """The track header's matrix (a b; c d) takes (x, y), y down, to (ax + cy, bx + dy): ISO 14496-12."""
    frames = moving_frames(2)
    write_video(frames, tmp_path / "a.mp4", fps=5)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    (tmp_path / "a.mp4").write_bytes(content)
    upright = read_video(tmp_path / "a.mp4", max_frames=2)
    expected = np.rot90(frames.numpy(), -clockwise, axes=(2, 3))
    assert upright.shape == expected.shape
    assert psnr(upright, torch.from_numpy(expected.copy())) > 30


def test_frames_may_come_one_by_one(tmp_path: Path) -> None:
    def frames() -> Iterator[torch.Tensor]:
        yield from moving_frames(3)

    write_video(frames(), tmp_path / "a.mp4", fps=5)
    assert read_video(tmp_path / "a.mp4", max_frames=9).shape[0] == 3


def test_files_that_are_no_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.mp4: no such video file"):
        read_video(tmp_path / "gone.mp4", max_frames=1)
    for content in (b"", b"words " * 100):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(UserError, match=r"a.mp4 can't be decoded as a video"):
            read_video(tmp_path / "a.mp4", max_frames=1)


def test_a_sound_file_has_no_video_stream(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(UserError, match=r"a.wav has no video stream"):
        read_video(tmp_path / "a.wav", max_frames=1)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_video_is_named(tmp_path: Path, kept: float) -> None:
    write_video(moving_frames(30), tmp_path / "a.mp4", fps=10)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"a.mp4 (is damaged|can't be decoded)"):
        list(iterate_video(tmp_path / "a.mp4"))


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(UserError, match="no frame to write"):
        write_video([], path, fps=5)
    with pytest.raises(UserError, match="0 frames a second"):
        write_video(moving_frames(1), path, fps=0)
    with pytest.raises(UserError, match=r"ends in .mp4"):
        write_video(moving_frames(1), tmp_path / "a.avi", fps=5)

    def broken() -> Iterator[torch.Tensor]:
        yield from moving_frames(2)
        raise RuntimeError("the model fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_video(broken(), path, fps=5)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        write_video(moving_frames(1), tmp_path / "file/a.mp4", fps=5)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]

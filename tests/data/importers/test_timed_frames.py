"""Frames of a video by their time: against the grey level that each was written with."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from configs.errors import UserError
from data.importers.timed_frames import frames_at, frames_numbered
from data.left_out import LeftOut, Reason

NTSC = Fraction(30_000, 1001)
STEP_US = 1_001_000 / 30

WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Writes `count` flat frames, frame i with grey level 3 i, a key frame every twelve, and B-frames between."""

    def write(name: str = "a.mp4", count: int = 60, fps: Fraction = NTSC) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.gop_size = 12
            stream.options = {"crf": "4", "bf": "2"}
            for i in range(count):
                pixels = np.full((32, 32, 3), 3 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


def numbers(frames) -> list[int]:
    return [round(float(frame.mean()) * 255 / 3) for frame in frames]


def times(views: list[int]) -> list[int]:
    """As RealEstate10K writes them: whole milliseconds, cut off."""
    return [int(view * STEP_US / 1000) * 1000 for view in views]


@pytest.mark.parametrize("views", [[0], [0, 1, 2, 3], [30, 33, 36, 59], [11, 12, 13], [59]])
def test_each_time_gives_its_frame(write_video, views):
    path = write_video()
    assert numbers(frames_at(path, times(views), 0.6 * STEP_US)) == views


def test_a_video_that_starts_late_counts_from_its_start(write_video, tmp_path):
    shifted = tmp_path / "late.mkv"
    with av.open(str(write_video())) as source, av.open(str(shifted), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            packet.pts += round(5 / packet.time_base)
            packet.dts += round(5 / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    assert numbers(frames_at(shifted, times([40, 41]), 0.6 * STEP_US)) == [40, 41]


def test_times_outside_the_video_are_told(write_video):
    path = write_video()
    with pytest.raises(
        LeftOut, match=r"has no frame at 2.102 s; the nearest is at 1.969 s"
    ) as told:
        list(frames_at(path, times([58, 63]), 0.6 * STEP_US))
    assert told.value.reason == Reason.TIMES
    with pytest.raises(LeftOut, match="frame at 100.000 s"):
        list(frames_at(path, [100_000_000], 0.6 * STEP_US))


def test_a_video_of_half_the_frames_a_second_is_told(write_video):
    path = write_video(fps=NTSC / 2)
    with pytest.raises(LeftOut, match="has no frame at|fewer frames a second"):
        list(frames_at(path, times(list(range(10))), 0.6 * STEP_US))


def test_frames_by_number(write_video):
    path = write_video(count=30)
    assert numbers(frames_numbered(path, [0, 3, 29], 30)) == [0, 3, 29]
    with pytest.raises(LeftOut, match="holds 30 frames for 31 cameras") as told:
        list(frames_numbered(path, [0], 31))
    assert told.value.reason == Reason.MISSING


def test_what_is_no_video_or_damaged_is_told(write_video, tmp_path):
    path = write_video()
    content = bytearray(path.read_bytes())
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("half.mp4", "text.mp4", "empty.mp4"):
        with pytest.raises(UserError, match=rf"{name} can't be decoded as a video"):
            list(frames_at(tmp_path / name, [0], STEP_US))
    with pytest.raises(UserError, match=r"none.mp4: no such video file"):
        list(frames_at(tmp_path / "none.mp4", [0], STEP_US))


def test_frames_that_lost_bytes_are_never_passed_off_as_whole(write_video):
    """Zeros over part of the pictures: an error, or the frames as they were."""
    path = write_video()
    content = path.read_bytes()
    start = content.index(b"mdat") + 2000
    path.write_bytes(content[:start] + bytes(1500) + content[start + 1500 :])
    views = list(range(60))
    with pytest.raises(UserError, match=r"damaged|can't be decoded|has no frame"):
        list(frames_at(path, times(views), 0.6 * STEP_US))

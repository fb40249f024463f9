"""Single frames of a video, by their time or their number, decoded from the nearest point before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.importers.video import frame_to_tensor
from data.left_out import LeftOut, Reason

if TYPE_CHECKING:
    import av

MICROSECONDS = 1_000_000


def frames_at(
    path: Path, times_us: Sequence[int], tolerance_us: float
) -> Iterator[Float[Tensor, "3 h w"]]:
    """The frames shown nearest to ascending times [microseconds from the video's start], RGB in [0, 1].

    One is in memory at a time. Raises LeftOut where a time has no frame within the tolerance or shares one
    with another time (the video has fewer frames a second than the times were taken from), and UserError
    where the file can't be decoded.
    """
    with _opened(path) as (container, stream):
        timed = _decode_from(container, stream, times_us[0] - tolerance_us, path)
        before = after = next(timed, None)
        shown: int | None = None
        for wanted in times_us:
            while after is not None and after[0] < wanted:
                before, after = after, next(timed, None)
            near = [frame for frame in (before, after) if frame is not None]
            if not near:
                raise LeftOut(
                    Reason.TIMES, f"{path}: holds no frame at {_seconds(wanted)} or later"
                )
            time_us, frame = min(near, key=lambda candidate: abs(candidate[0] - wanted))
            if abs(time_us - wanted) > tolerance_us:
                raise LeftOut(
                    Reason.TIMES,
                    f"{path}: has no frame at {_seconds(wanted)}; the nearest is at {_seconds(time_us)}",
                )
            if frame.pts == shown:
                raise LeftOut(
                    Reason.TIMES,
                    f"{path}: two of the times have the same frame, at {_seconds(time_us)}; the video has fewer"
                    " frames a second than the times were taken from",
                )
            shown = frame.pts
            yield frame_to_tensor(frame)


def frames_numbered(
    path: Path, numbers: Sequence[int], count: int
) -> Iterator[Float[Tensor, "3 h w"]]:
    """The frames of ascending numbers of a video that must hold `count` frames; else as `frames_at`."""
    with _opened(path) as (container, stream):
        held = sum(packet.size > 0 for packet in container.demux(stream))
        if held != count:
            raise LeftOut(Reason.MISSING, f"{path}: holds {held} frames for {count} cameras")
        container.seek(0)
        frames = enumerate(container.decode(stream))
        for wanted in numbers:
            found = next((frame for number, frame in frames if number == wanted), None)
            if found is None:
                raise LeftOut(Reason.MISSING, f"{path}: ends before frame {wanted} of {count}")
            _check_whole(found, path)
            yield frame_to_tensor(found)


@contextmanager
def _opened(
    path: Path,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video stream")
            stream = container.streams.video[0]
            # Scenes are read by several processes, so each decodes with one thread.
            stream.codec_context.thread_count = 1
            yield container, stream
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such video file") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path} can't be decoded as a video ({error.strerror})") from error


def _decode_from(
    container: av.container.InputContainer, stream: av.VideoStream, start_us: float, path: Path
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their times [microseconds], from one at or before `start_us` on where there is such a one."""
    time_base = stream.time_base
    assert time_base is not None
    first_pts = stream.start_time or 0

    def timed() -> Iterator[tuple[float, av.VideoFrame]]:
        for frame in container.decode(stream):
            if frame.pts is not None:
                _check_whole(frame, path)
                yield float((frame.pts - first_pts) * time_base * MICROSECONDS), frame

    if start_us > 0:
        container.seek(first_pts + int(start_us / MICROSECONDS / time_base), stream=stream)
        frames = timed()
        first = next(frames, None)
        if first is not None and first[0] <= start_us:
            yield first
            yield from frames
            return
    # Some files have no index to seek by, or lead past the wanted time.
    container.seek(first_pts, stream=stream)
    yield from timed()


def _check_whole(frame: av.VideoFrame, path: Path) -> None:
    if frame.is_corrupt:
        raise UserError(f"{path} is damaged: a frame of it can't be decoded as a whole")


def _seconds(time_us: float | int) -> str:
    return f"{time_us / MICROSECONDS:.3f} s"

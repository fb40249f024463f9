"""Video files in and out, by PyAV, one frame in memory at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sized
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.durable_files import TEMPORARY_SUFFIX, disk_errors_explained

if TYPE_CHECKING:
    import av

CRF = 16
"""x264's quality: 0 is lossless, 23 its default; 16 can hardly be told from the frames."""

BYTES_PER_PIXEL = 0.5
"""A generous guess of what a pixel takes in a video file, for the message on a full disk."""


def iterate_video(
    path: Path | str, *, stride: int = 1, max_frames: int | None = None
) -> Iterator[Float[Tensor, "3 h w"]]:
    """Every `stride`-th frame of a video, at most `max_frames`, RGB in [0, 1], upright as it is shown.

    One frame is in memory at a time. Raises UserError where the file is missing, not a video, damaged
    (also where it ends before the number of frames that it declares), or has no frames.
    """
    import av

    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise UserError(
            f"{path}: stride is {stride} and max_frames {max_frames}; expected at least 1"
        )
    num_packets = num_decoded = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                num_packets += packet.size > 0
                for frame in packet.decode():
                    if num_decoded % stride == 0:
                        yield frame_to_tensor(frame)
                    num_decoded += 1
                    if max_frames is not None and num_decoded > (max_frames - 1) * stride:
                        return
            num_declared = stream.frames
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such video file") from error
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path} can't be decoded as a video: it fails after {num_decoded} frames"
            f" ({error.strerror})"
        ) from error
    # Packets, not frames: an edited video may rightly show fewer frames than it stores.
    if num_packets < num_declared or num_decoded == 0:
        raise UserError(
            f"{path} is damaged: it declares {num_declared} frames and holds {num_packets}, of which"
            f" {num_decoded} can be shown"
        )


def read_video(path: Path | str, max_frames: int, stride: int = 1) -> Float[Tensor, "t 3 h w"]:
    """The frames of `iterate_video` in one tensor; `max_frames` bounds the memory that it takes."""
    return torch.stack(list(iterate_video(path, stride=stride, max_frames=max_frames)))


def write_video(
    frames: Iterable[Float[Tensor, "3 h w"]], path: Path | str, fps: float | int
) -> None:
    """Writes RGB frames in [0, 1] (a tensor `[t 3 h w]`, or made one by one) as H.264 in an MP4 file.

    Chroma is halved (yuv420p, BT.709), which every player shows; a side of odd length gets its last
    pixels twice, since H.264 has none. The file appears whole or not at all.
    Raises UserError where there is no frame, `fps` is not positive, or the file can't be written.
    """
    path = Path(path)
    if not 0 < fps <= 1000:
        raise UserError(f"{path}: {fps} frames a second, expected more than 0 and at most 1000")
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path}: expected a name that ends in .mp4")
    num_frames = len(frames) if isinstance(frames, Sized) else 1
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path}: there is no frame to write")
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with disk_errors_explained(path, round(num_frames * first[0].numel() * BYTES_PER_PIXEL)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _encode(itertools.chain([first], frames), temporary, fps)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _encode(frames: Iterable[Float[Tensor, "3 h w"]], path: Path, fps: float | int) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        # With AVX-512, x264's mbtree gives other bytes every time; without it a video can be repeated.
        stream.options = {"crf": str(CRF), "x264-params": "mbtree=0"}
        context = stream.codec_context
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        size = None
        for frame in frames:
            image = _even(frame)
            if size is None:
                size = image.shape
                stream.height, stream.width = size[-2:]
            assert image.shape == size, "all frames of a video have one size"
            levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)
            picture = av.VideoFrame.from_ndarray(levels.contiguous().cpu().numpy(), "rgb24")
            picture = picture.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_unbiased(),
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def frame_to_tensor(frame: av.VideoFrame) -> Float[Tensor, "3 h w"]:
    pixels = frame.reformat(format="rgb24", interpolation=_unbiased()).to_ndarray()
    image = torch.from_numpy(pixels).movedim(-1, 0).float() / 255
    # Phones store the sensor's pixels and a rotation in steps of 90 degrees, anticlockwise.
    return torch.rot90(image, round(frame.rotation / 90), dims=(1, 2)).contiguous()


def _even(frame: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 even_h even_w"]:
    height, width = frame.shape[-2:]
    padding = (0, width % 2, 0, height % 2)
    return torch.nn.functional.pad(frame[None], padding, mode="replicate")[0]


def _unbiased() -> int:
    """swscale's flags for a conversion that neither darkens (its default: by 1.2 of 255) nor blurs."""
    from av.video.reformatter import Interpolation

    return Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

"""The power spectrum's slope of pictures: procedural frames beside photographs.

Photographs of natural scenes have power that falls like frequency**-s with s near 2 (amplitude like 1/f).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.errors import run_command

LOWEST_FREQUENCY = 2.0
"""Lowest frequency fitted, in cycles over the shorter side; below it there are too few samples."""
HIGHEST_FREQUENCY = 0.4
"""Highest frequency fitted, in cycles a pixel; above it resampling filters shape the spectrum."""


def luminance(frames: NDArray[np.floating]) -> NDArray[np.float64]:
    """Grey pictures `[n h w]` from `[n 3 h w]` in [0, 1]."""
    weights = np.array([0.299, 0.587, 0.114])
    return np.einsum("c,nchw->nhw", weights, frames.astype(np.float64))


def radial_power(grey: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies `[k]` (cycles a pixel, evenly spaced in the logarithm) and mean power there `[n k]`.

    grey: `[n h w]`. A Hann window keeps the picture's borders from adding power of their own.
    """
    height, width = grey.shape[-2:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    mean = (grey * window).sum(axis=(-2, -1), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((grey - mean) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    lowest = LOWEST_FREQUENCY / min(height, width)
    edges = np.geomspace(lowest, HIGHEST_FREQUENCY, 13)
    ring = np.digitize(radius.ravel(), edges) - 1
    rings = [np.flatnonzero(ring == k) for k in range(len(edges) - 1)]
    rings = [members for members in rings if len(members)]
    flat = power.reshape(len(grey), -1)
    frequency = np.array([np.exp(np.log(radius.ravel()[m]).mean()) for m in rings])
    return frequency, np.stack([flat[:, m].mean(axis=1) for m in rings], axis=1)


def spectrum_slopes(frames: NDArray[np.floating]) -> NDArray[np.float64]:
    """Slope of log power over log frequency of each picture `[n 3 h w]`: about -2 for photographs."""
    frequency, power = radial_power(luminance(frames))
    x = np.log(frequency)
    y = np.log(power + 1e-12)
    x = x - x.mean()
    return (y * x).sum(axis=1) / (x * x).sum()


def bundled_photographs(height: int, width: int) -> tuple[list[str], NDArray[np.float32]]:
    """Names, and the photographs of scenes and people in scikit-image, cropped and resized `[n 3 h w]`."""
    from PIL import Image

    from data.procedural.textures import photograph_path

    names = [
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ]
    pictures = []
    for name in names:
        with Image.open(photograph_path(name)) as file:
            image = file.convert("RGB")
        share = min(image.width / width, image.height / height)
        left, top = (image.width - share * width) / 2, (image.height - share * height) / 2
        area = (left, top, left + share * width, top + share * height)
        small = image.resize((width, height), Image.Resampling.BOX, box=area)
        pictures.append(np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255)
    return names, np.stack(pictures)


def write_grid(frames: NDArray[np.floating], path: str, columns: int = 8, enlarge: int = 2) -> None:
    """Writes pictures `[n 3 h w]`, row by row, as one image file."""
    from PIL import Image

    num, _, height, width = frames.shape
    rows = -(-num // columns)
    sheet = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = (
            (frame.transpose(1, 2, 0) * 255).round().clip(0, 255)
        )
    image = Image.fromarray(sheet)
    image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.BICUBIC).save(
        path
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data.procedural.spectrum",
        description="Slope of the power spectrum of procedural frames beside that of photographs"
        " at the same size.",
        epilog="example: python -m data.procedural.spectrum --clips 48 --picture /tmp/scenes.png",
    )
    parser.add_argument("--clips", type=int, default=32, help="procedural clips (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first clip (default 0)")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("H", "W"))
    parser.add_argument("--views", action="store_true", help="picture: all views, one clip a row")
    parser.add_argument("--picture", metavar="FILE", help="also write a grid of the frames")
    args = parser.parse_args(argv)

    from data.procedural.clips import make_clip
    from data.procedural.config import SceneConfig

    height, width = args.size
    config = SceneConfig(height=height, width=width)
    clips = [make_clip(args.seed + i, config).frames.numpy() for i in range(args.clips)]
    names, photographs = bundled_photographs(height, width)
    for label, frames in (
        (f"{args.clips} procedural clips, first frame", np.stack([clip[0] for clip in clips])),
        (f"{len(names)} photographs of scikit-image", photographs),
    ):
        slopes = spectrum_slopes(frames)
        contrast = luminance(frames).std(axis=(1, 2))
        print(
            f"{label:40s} slope {slopes.mean():.2f} +- {slopes.std():.2f}"
            f"   mean {luminance(frames).mean():.2f}   contrast {contrast.mean():.2f}"
        )
    if args.picture:
        if args.views:
            step = max(1, config.num_frames // 6)
            chosen = [*range(0, config.num_frames, step), *range(config.num_frames, len(clips[0]))]
            write_grid(np.concatenate([clip[chosen] for clip in clips]), args.picture, len(chosen))
        else:
            write_grid(np.stack([clip[0] for clip in clips]), args.picture)
        print(f"wrote {args.picture}")
    return 0


if __name__ == "__main__":
    run_command(main)

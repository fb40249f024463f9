"""How much memory a texture takes to make, told before anything else is made.

The constants lie above what was measured: the growth of a fresh process's largest resident size (`ru_maxrss`) from
before `texture_mesh` to its end, on the CPU, over a plane that covers all of its texture. Seen whole, with textures of
1024, 2048 and 4096 texels a side, that was 0.51, 1.41 and 4.30 GB, and 1.45 GB at 2048 where views show a tenth of the
plane; they say 0.63, 1.48 and 4.88 GB. Baking is what takes most; writing the files took no more. With a texture of 64
and 36 views of 256x384 pixels, 0.51 GB more than with 2 of 64x64; they say 0.53 GB.
"""

from __future__ import annotations

from configs.errors import UserError
from data.cameras import Cameras

BYTES_PER_TEXEL = 270
"""Peak of baking, filling, refining and writing, per texel."""
BYTES_PER_PIXEL = 150
"""Of the views that a texture is fitted to, all at once."""
BYTES_BESIDE = 350_000_000
"""What is needed whatever the sizes: compiled kernels, the libraries' own."""
MIN_SIDE = 16
STEP = 64
"""Suggested sides are multiples of this."""


def texture_bytes(size: int, pixels: int) -> int:
    """Peak memory [bytes] of a texture of `size` texels a side, fitted to views of so many pixels in all."""
    return BYTES_BESIDE + BYTES_PER_TEXEL * size**2 + BYTES_PER_PIXEL * pixels


def check_texture_memory(size: int, pixels: int, bytes_free: int) -> None:
    """Raises UserError, with the size that would fit, where a texture takes more than `bytes_free`."""
    needed = texture_bytes(size, pixels)
    if needed <= bytes_free:
        return
    spare = max(0, bytes_free - texture_bytes(0, pixels))
    fits = int((spare / BYTES_PER_TEXEL) ** 0.5)
    fits = fits // STEP * STEP or fits
    cure = (
        f"--texture {fits} would fit"
        if fits >= MIN_SIDE
        else "no texture fits; free some memory first, or take fewer or smaller views"
    )
    raise UserError(
        f"a texture of {size}x{size} needs {needed / 2**30:.1f} GiB of memory, and {bytes_free / 2**30:.1f} GiB are"
        f" free; {cure}"
    )


def num_pixels(cameras: Cameras) -> int:
    """Pixels of all views."""
    return cameras.num_views * cameras.height * cameras.width

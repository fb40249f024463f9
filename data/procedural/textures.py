"""Textures: natural noise, planks, tiles, cloth and crops of photographs, as mip pyramids.

All textures are square, `SIZE` texels a side, and repeat by mirroring. They are drawn in sRGB and kept as
linear albedo. Their amplitude spectra fall like 1/f, as those of photographs do.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = NDArray[np.floating]

SIZE = 128
"""Texels along a side of the finest level."""
LEVEL_SIZES = tuple(SIZE >> level for level in range(SIZE.bit_length()))
LEVEL_OFFSETS = np.cumsum([0, *(size * size for size in LEVEL_SIZES)])[:-1].astype(np.int64)
NUM_TEXELS = sum(size * size for size in LEVEL_SIZES)
GAMMA = 2.2

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)
"""Photographs that lie inside the installed scikit-image package: pictures, prints, upholstery."""
GROUNDS = ("brick.png", "grass.png", "gravel.png")
"""Grey photographs of surfaces, tinted before use."""


def photograph_path(name: str) -> Path:
    """The file of a photograph that comes with scikit-image, without any download."""
    import skimage.data

    return Path(skimage.data.__file__).parent / name


@functools.cache
def load_photograph(name: str) -> Array:
    """sRGB in [0, 1], `[h w 3]`, the shorter side shrunk to at most 256."""
    from PIL import Image

    with Image.open(photograph_path(name)) as file:
        image = file.convert("RGB")
        shrink = 256 / min(image.size)
        if shrink < 1:
            size = (round(image.width * shrink), round(image.height * shrink))
            image = image.resize(size, Image.Resampling.BOX)
        return np.asarray(image, dtype=np.float32) / 255


@functools.cache
def _frequencies() -> Array:
    fy, fx = np.fft.fftfreq(SIZE) * SIZE, np.fft.rfftfreq(SIZE) * SIZE
    return np.hypot(fy[:, None], fx[None, :]).clip(1)


def natural_noise(
    rng: np.random.Generator, slope: float = 1.3, stretch: float = 1.0, lowest: float = 1.0
) -> Array:
    """Noise `[SIZE SIZE]` with mean 0, deviation 1 and amplitude spectrum f**-slope.

    `stretch` > 1 draws it out along x (grain); frequencies under `lowest` cycles a tile are damped.
    """
    if stretch == 1.0:
        radius = _frequencies()
    else:
        fy, fx = np.fft.fftfreq(SIZE) * SIZE, np.fft.rfftfreq(SIZE) * SIZE
        radius = np.hypot(fy[:, None], stretch * fx[None, :]).clip(1)
    amplitude = radius**-slope
    if lowest > 1:
        amplitude *= 1 - np.exp(-((radius / lowest) ** 2))
    phase = rng.random(amplitude.shape)
    spectrum = amplitude * np.exp(2j * np.pi * phase)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    return (noise / noise.std()).astype(np.float32)


def plain(rng: np.random.Generator, colour: Colour, roughness: float = 0.06) -> Array:
    """Paint or plaster: one colour with faint, large clouds."""
    noise = natural_noise(rng, rng.uniform(1.1, 1.7))
    return colour * (1 + roughness * noise[..., None])


def mottled(rng: np.random.Generator, colour: Colour, other: Colour) -> Array:
    """Stone, earth, foliage or felt: two colours that run into each other."""
    share = 0.5 + 0.28 * natural_noise(rng, rng.uniform(1.0, 1.5))
    fine = 1 + 0.05 * natural_noise(rng, 0.8)
    return (colour + (other - colour) * share[..., None].clip(0, 1)) * fine[..., None]


def planks(rng: np.random.Generator, colour: Colour) -> Array:
    """Wood: boards along x, each of its own shade, with grain and dark joints."""
    num_boards = int(rng.choice([2, 4, 4, 8]))
    row = np.arange(SIZE) * num_boards // SIZE
    shade = 1 + 0.10 * rng.standard_normal(num_boards)[row]
    grain = 1 + 0.09 * natural_noise(rng, 1.1, stretch=rng.uniform(5, 10))
    joint = np.where(np.arange(SIZE) % (SIZE // num_boards) < 2, 0.72, 1.0)
    return colour * (grain * (shade * joint)[:, None])[..., None]


def tiles(rng: np.random.Generator, colour: Colour, grout: Colour) -> Array:
    """Floor tiles, paving or brickwork: cells of slightly different shades in a grid or a bond."""
    rows = int(rng.choice([2, 4, 8]))
    columns = rows if rng.random() < 0.6 else max(rows // 2, 1)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    row = y * rows // SIZE
    x = (x + (row % 2) * (SIZE // columns // 2) * (columns != rows)) % SIZE
    column = x * columns // SIZE
    shade = 1 + 0.07 * rng.standard_normal((rows, columns))[row, column]
    wall = colour * (shade * (1 + 0.05 * natural_noise(rng, 1.2)))[..., None]
    width = max(1, SIZE // rows // 14)
    edge = (y % (SIZE // rows) < width) | (x % (SIZE // columns) < width)
    return np.where(edge[..., None], 0.45 * wall + 0.55 * grout, wall)


def stripes(rng: np.random.Generator, colour: Colour, other: Colour) -> Array:
    """Cloth or wallpaper: soft stripes along y, of low contrast."""
    wave = np.sin(2 * np.pi * int(rng.integers(1, 5)) * np.arange(SIZE) / SIZE)
    share = 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 4), -1, 1)
    cloth = colour + (other - colour) * share[None, :, None]
    return cloth * (1 + 0.05 * natural_noise(rng, 1.2))[..., None]


def photograph(rng: np.random.Generator, name: str, saturation: float = 0.65) -> Array:
    """A random square crop of a photograph, sometimes mirrored, with muted colours."""
    image = load_photograph(name)
    least = min(image.shape[:2])
    side = int(rng.uniform(0.55, 1.0) * least)
    top = int(rng.integers(0, image.shape[0] - side + 1))
    left = int(rng.integers(0, image.shape[1] - side + 1))
    crop = _resample(image[top : top + side, left : left + side])
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    grey = crop.mean(axis=-1, keepdims=True)
    return grey + saturation * (crop - grey)


def ground(rng: np.random.Generator, name: str, colour: Colour) -> Array:
    """A photographed surface in the given colour, with large, faint patches over it."""
    surface = photograph(rng, name).mean(axis=-1)
    if name == "brick.png":
        surface = surface.T  # its courses run upwards
    relief = 1 + 0.7 * (surface / surface.mean() - 1)
    patches = 1 + 0.10 * natural_noise(rng, 1.6)
    return colour * (relief * patches)[..., None]


def landscape(rng: np.random.Generator, land: Colour, other: Colour) -> Array:
    """Bright sky above a wavy skyline and two-coloured land: what a window shows, or a painting."""
    rise = np.linspace(0, 1, SIZE)[:, None, None]
    sky = np.array([0.72, 0.80, 0.90]) + np.array([0.2, 0.14, 0.02]) * rise
    skyline = rng.uniform(0.4, 0.7) + 0.06 * natural_noise(rng, 1.6)[:1, :, None]
    return np.where(rise > skyline, mottled(rng, land, other), sky)


def clouds(rng: np.random.Generator) -> Array:
    """Cloud cover in [0, 1], the same in all three channels; not a colour."""
    noise = natural_noise(rng, rng.uniform(1.4, 1.8)) + rng.uniform(-0.8, 0.8)
    cover = np.clip(0.5 + 0.45 * noise, 0, 1)
    cover = cover * cover * (3 - 2 * cover)
    return np.repeat(cover[..., None], 3, axis=-1)


def albedo(texture: Array) -> Array:
    """Linear albedo of an sRGB texture, kept between 1% and 88% as real surfaces are."""
    return np.clip(texture, 0.12, 0.94) ** GAMMA


def mip_pyramid(texture: Array) -> NDArray[np.float32]:
    """All levels of a linear `[SIZE SIZE 3]` texture, finest first, as `[NUM_TEXELS 3]`."""
    levels = [texture.astype(np.float32)]
    for size in LEVEL_SIZES[1:]:
        levels.append(levels[-1].reshape(size, 2, size, 2, 3).mean(axis=(1, 3)))
    return np.concatenate([level.reshape(-1, 3) for level in levels])


def _resample(image: Array) -> Array:
    """A square image as `[SIZE SIZE 3]`: bilinear, after halving while it is over twice too large."""
    while image.shape[0] >= 2 * SIZE:
        half = image.shape[0] // 2
        image = image[: 2 * half, : 2 * half].reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
    at = (np.arange(SIZE) + 0.5) * image.shape[0] / SIZE - 0.5
    low = np.clip(np.floor(at).astype(int), 0, image.shape[0] - 2)
    share = (at - low).clip(0, 1)
    rows = image[low] * (1 - share)[:, None, None] + image[low + 1] * share[:, None, None]
    return rows[:, low] * (1 - share)[:, None] + rows[:, low + 1] * share[:, None]

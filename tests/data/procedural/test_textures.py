"""Textures: natural spectra, honest mip levels, and photographs that need no download."""

from __future__ import annotations

import numpy as np

from data.procedural import textures
from data.procedural.textures import LEVEL_OFFSETS, LEVEL_SIZES, NUM_TEXELS, SIZE


def test_noise_falls_as_asked_and_tiles():
    rng = np.random.default_rng(1)
    slopes = []
    for _ in range(8):
        noise = textures.natural_noise(rng, slope=1.3)
        assert abs(noise.mean()) < 1e-3 and abs(noise.std() - 1) < 1e-3
        power = np.abs(np.fft.fft2(noise)) ** 2
        radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :]) * SIZE
        rings = [power[(radius >= f) & (radius < 1.5 * f)].mean() for f in (2, 4, 8, 16, 32)]
        slopes.append(np.polyfit(np.log([2, 4, 8, 16, 32]), np.log(rings), 1)[0])
        # No seam: across the border it changes no more than elsewhere.
        inner = np.abs(np.diff(noise, axis=1)).mean()
        assert np.abs(noise[:, 0] - noise[:, -1]).mean() < 2 * inner
    assert abs(np.mean(slopes) + 2.6) < 0.1


def test_every_level_is_the_mean_of_its_area():
    texture = np.random.default_rng(2).random((SIZE, SIZE, 3)).astype(np.float32)
    pyramid = textures.mip_pyramid(texture)
    assert pyramid.shape == (NUM_TEXELS, 3)
    for size, start in zip(LEVEL_SIZES, LEVEL_OFFSETS, strict=True):
        step = SIZE // size
        level = pyramid[start : start + size * size].reshape(size, size, 3)
        np.testing.assert_allclose(level[0, -1], texture[:step, -step:].mean((0, 1)), atol=1e-5)


def test_all_photographs_are_installed_and_usable():
    rng = np.random.default_rng(3)
    for name in (*textures.PHOTOGRAPHS, *textures.GROUNDS):
        picture = textures.photograph(rng, name)
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.min() > -0.2 and picture.max() < 1.2 and picture.std() > 0.02


def test_textures_are_muted():
    rng = np.random.default_rng(4)
    colour, other = np.array([0.6, 0.5, 0.4]), np.array([0.4, 0.5, 0.6])
    drawn = [
        textures.plain(rng, colour),
        textures.mottled(rng, colour, other),
        textures.planks(rng, colour),
        textures.tiles(rng, colour, other),
        textures.stripes(rng, colour, other),
        textures.ground(rng, "grass.png", colour),
        textures.landscape(rng, colour, other),
    ]
    for texture in drawn:
        assert texture.shape == (SIZE, SIZE, 3)
        linear = textures.albedo(texture)
        assert linear.min() > 0.005 and linear.max() < 0.9
        assert texture.std(axis=(0, 1)).max() < 0.25

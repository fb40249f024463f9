"""The materials of one scene: a small set of textures in one muted palette, handed out with varied tints."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.procedural import textures
from data.procedural.scene import Material, SceneBuilder

WARM, BLUE, GREEN = (0.06, 0.06), (0.58, 0.06), (0.28, 0.10)


@dataclass(frozen=True)
class Palette:
    """Colours that a family of surfaces tends to have: hues (middle, spread), saturation, value."""

    hues: tuple[tuple[float, float], ...]
    saturation: tuple[float, float]
    value: tuple[float, float]

    def draw(self, rng: np.random.Generator) -> textures.Colour:
        """An sRGB colour."""
        middle, spread = self.hues[int(rng.integers(len(self.hues)))]
        hue = (middle + spread * rng.uniform(-1, 1)) % 1.0
        return np.array(
            colorsys.hsv_to_rgb(hue, rng.uniform(*self.saturation), rng.uniform(*self.value))
        )


WOODS = Palette(((0.075, 0.02),), (0.25, 0.55), (0.32, 0.74))
WALLS = Palette(((0.10, 0.04), (0.10, 0.04), BLUE, GREEN), (0.03, 0.20), (0.66, 0.93))
STONES = Palette(((0.09, 0.05),), (0.03, 0.18), (0.42, 0.78))
LEAVES = Palette(((0.22, 0.05),), (0.20, 0.42), (0.40, 0.64))
EARTHS = Palette(((0.10, 0.04),), (0.20, 0.42), (0.38, 0.66))
CLOTHS = Palette((WARM, WARM, BLUE, BLUE, GREEN, (0.5, 0.5)), (0.08, 0.45), (0.32, 0.88))
PAINTS = Palette((WARM, WARM, BLUE, GREEN, (0.5, 0.5)), (0.04, 0.50), (0.35, 0.92))


class Materials:
    """Draws textures on first use and shares them between objects.

    Each method returns a material of its family; tint and tile size vary from call to call.
    """

    def __init__(self, builder: SceneBuilder) -> None:
        self.builder = builder
        self.rng = builder.rng
        self._kept: dict[str, list[int]] = {}

    def wood(self) -> Material:
        return self._vary("wood", 2, self._draw_wood, tile=(0.8, 1.8))

    def cloth(self) -> Material:
        return self._vary("cloth", 3, self._draw_cloth, tile=(0.6, 1.6))

    def paint(self) -> Material:
        return self._vary("paint", 3, self._draw_paint, tile=(0.8, 2.0))

    def stone(self) -> Material:
        return self._vary("stone", 2, self._draw_stone, tile=(1.0, 2.5))

    def leaves(self) -> Material:
        return self._vary("leaves", 2, self._draw_leaves, tile=(0.8, 1.8))

    def wall(self) -> Material:
        return self._vary("wall", 2, self._draw_wall, tile=(2.0, 4.0), spread=0.06)

    def floor(self) -> Material:
        draw = self._draw_wood if self.rng.random() < 0.5 else self._draw_floor
        return self._vary("floor", 1, draw, tile=(1.4, 3.0), spread=0.0)

    def ground(self) -> Material:
        return self._vary("ground", 1, self._draw_ground, tile=(3.0, 6.0), spread=0.0)

    def ceiling(self) -> Material:
        return self._vary("ceiling", 1, self._draw_ceiling, tile=(3.0, 5.0), spread=0.0)

    def picture(self, width: float) -> Material:
        """A photograph across `width` metres."""
        return self._vary("picture", 3, self._draw_picture, tile=(width, width), spread=0.08)

    def view(self, height: float) -> Material:
        """What a window shows: bright sky above something darker, across `height` metres."""
        material = self._vary("view", 1, self._draw_view, tile=(height, height), spread=0.0)
        return Material(material.texture, material.tile, (1.5, 1.5, 1.5), glow=0.8)

    def lamp(self) -> Material:
        paper = self._vary("ceiling", 1, self._draw_ceiling, tile=(1.0, 1.0), spread=0.0)
        return Material(paper.texture, 1.0, (1.5, 1.3, 1.0), glow=0.6)

    def _vary(
        self,
        name: str,
        most: int,
        draw: Callable[[], textures.Array],
        tile: tuple[float, float],
        spread: float = 0.22,
    ) -> Material:
        """One of up to `most` textures of a family, in a tint that differs by about `spread`."""
        rng, kept = self.rng, self._kept.setdefault(name, [])
        choice = int(rng.integers(most))
        if choice >= len(kept):
            kept.append(self.builder.add_texture(draw()))
            choice = len(kept) - 1
        shade = np.exp(spread * rng.standard_normal())
        red, green, blue = shade * np.exp(0.35 * spread * rng.standard_normal(3))
        return Material(kept[choice], rng.uniform(*tile), (red, green, blue))

    def _draw_wood(self) -> textures.Array:
        return textures.planks(self.rng, WOODS.draw(self.rng))

    def _draw_cloth(self) -> textures.Array:
        rng = self.rng
        colour, pick = CLOTHS.draw(rng), rng.random()
        other = 0.55 * colour + 0.45 * CLOTHS.draw(rng)
        if pick < 0.35:
            return textures.stripes(rng, colour, other)
        if pick < 0.7:
            return textures.mottled(rng, colour, other)
        name = str(rng.choice(textures.PHOTOGRAPHS))
        return 0.45 * textures.photograph(rng, name, 0.6) + 0.55 * colour

    def _draw_paint(self) -> textures.Array:
        return textures.plain(self.rng, PAINTS.draw(self.rng), 0.07)

    def _draw_stone(self) -> textures.Array:
        rng = self.rng
        colour = STONES.draw(rng)
        if rng.random() < 0.5:
            return textures.mottled(rng, colour, colour * rng.uniform(0.6, 0.85))
        return textures.ground(rng, str(rng.choice(["brick.png", "gravel.png"])), colour)

    def _draw_leaves(self) -> textures.Array:
        rng = self.rng
        colour = LEAVES.draw(rng)
        if rng.random() < 0.3:
            return textures.ground(rng, "grass.png", colour)
        return textures.mottled(rng, colour, colour * rng.uniform(0.45, 0.7))

    def _draw_wall(self) -> textures.Array:
        rng = self.rng
        colour, pick = WALLS.draw(rng), rng.random()
        if pick < 0.55:
            return textures.plain(rng, colour, 0.045)
        if pick < 0.70:
            return textures.stripes(rng, colour, colour * rng.uniform(0.82, 0.95))
        if pick < 0.82:
            return textures.planks(rng, colour)
        if pick < 0.90:
            return textures.tiles(rng, colour, colour * 0.75)
        return textures.ground(rng, "brick.png", colour * 0.9)

    def _draw_floor(self) -> textures.Array:
        rng = self.rng
        colour, pick = STONES.draw(rng), rng.random()
        if pick < 0.5:
            return textures.tiles(rng, colour, colour * rng.uniform(0.6, 0.9))
        return textures.mottled(rng, colour, 0.6 * colour + 0.4 * CLOTHS.draw(rng))

    def _draw_ground(self) -> textures.Array:
        rng = self.rng
        pick = rng.random()
        if pick < 0.35:
            return textures.ground(rng, "grass.png", LEAVES.draw(rng))
        if pick < 0.55:
            return textures.ground(rng, "gravel.png", EARTHS.draw(rng))
        if pick < 0.75:
            return textures.mottled(rng, EARTHS.draw(rng), LEAVES.draw(rng))
        colour = STONES.draw(rng)
        return textures.tiles(rng, colour, colour * 0.75)

    def _draw_ceiling(self) -> textures.Array:
        return textures.plain(self.rng, np.array([0.88, 0.87, 0.84]), 0.03)

    def _draw_picture(self) -> textures.Array:
        rng = self.rng
        if rng.random() < 0.3:
            return textures.landscape(rng, CLOTHS.draw(rng), CLOTHS.draw(rng))
        return textures.photograph(rng, str(rng.choice(textures.PHOTOGRAPHS)), 0.7)

    def _draw_view(self) -> textures.Array:
        rng = self.rng
        hazy = 0.5 * LEAVES.draw(rng) + 0.3
        return textures.landscape(rng, hazy, 0.5 * EARTHS.draw(rng) + 0.3)

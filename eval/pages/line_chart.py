"""Line charts as SVG that stands in a page, in the page's colours, with nothing loaded from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
COLOURS = ("var(--accent)", "#4a90b8", "#7fa650", "#a377b8", "#c49a3c", "var(--soft)")
NUM_TICKS = 5


@dataclass(frozen=True)
class Line:
    """Values at x = 0, 1, 2 ..., with a gap where one is None. Lines of one colour belong together."""

    name: str
    values: Sequence[float | int | None]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines over one pair of axes, and what the axes show."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]

    def svg(self) -> str:
        """The chart, or nothing where no line has a value."""
        values = [v for line in self.lines for v in line.values if v is not None]
        if not values:
            return ""
        ticks = nice_ticks(min(values), max(values))
        last = max(1, *(len(line.values) - 1 for line in self.lines))
        axes = _Axes(ticks[0], ticks[-1], last)
        parts = [_grid_line(axes, tick) for tick in ticks]
        parts += [_x_tick(axes, place) for place in nice_ticks(0, last) if 0 <= place <= last]
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
        )
        parts += [f'<path d="{_path(axes, line)}" {_style(line)}/>' for line in self.lines]
        label = escape(f"{self.title}: {self.y_label} by {self.x_label}")
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"{''.join(parts)}</svg>"
        )

    def html(self) -> str:
        """The chart under its title, with a legend."""
        legend = "".join(
            f'<span><svg viewBox="0 0 24 8"><path d="M0 4H24" {_style(line)}/></svg>'
            f"{escape(line.name)}</span>"
            for line in self.lines
        )
        heading = f"{escape(self.title)} <small>{escape(self.y_label)}</small>"
        return f'<h3>{heading}</h3><div class="legend">{legend}</div>{self.svg()}'


def nice_ticks(low: float | int, high: float | int) -> list[float]:
    """About `NUM_TICKS` round numbers, evenly spaced, that reach from `low` or below to `high` or above."""
    span = max(high - low, 0.01 * max(abs(low), abs(high)), 1e-6)
    power = 10.0 ** math.floor(math.log10(span / NUM_TICKS))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * NUM_TICKS >= span * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Axes:
    """Where values lie on the picture."""

    low: float
    high: float
    last: int

    def x(self, place: float | int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * place / self.last

    def y(self, value: float | int) -> float:
        return (
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)
        )


def _grid_line(axes: _Axes, tick: float) -> str:
    y = f"{axes.y(tick):.1f}"
    return (
        f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{tick:.4g}</text>'
    )


def _x_tick(axes: _Axes, place: float) -> str:
    return (
        f'<text x="{axes.x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{place:.4g}'
        "</text>"
    )


def _path(axes: _Axes, line: Line) -> str:
    parts, pen_is_up = [], True
    for place, value in enumerate(line.values):
        if value is None:
            pen_is_up = True
            continue
        parts.append(f"{'M' if pen_is_up else 'L'}{axes.x(place):.1f} {axes.y(value):.1f}")
        pen_is_up = False
    return "".join(parts)


def _style(line: Line) -> str:
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    colour = COLOURS[line.colour % len(COLOURS)]
    return f'fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"{dashes}'

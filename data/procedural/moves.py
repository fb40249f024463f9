"""Smooth camera moves: truck, dolly, orbit, arc, crane, spiral, hand-held and more.

A move maps path parameters t (0 at the first frame, 1 at the last, defined beyond both) to
camera-to-world transforms in the axes of the first camera: x right, y down, z ahead, metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Positions = Callable[[Array], Array]

NUM_LENGTH_STEPS = 64


@dataclass(frozen=True)
class Move:
    """Where the camera goes and how it turns; calling it with t `[n]` gives transforms `[n 4 4]`.

    positions: t `[n]` -> `[n 3]`, zero at t = 0.
    focus: the point (0, 0, focus) is what the camera keeps an eye on [m].
    look: share of the turn that would keep the focus in the middle: 0 is none, 1 all.
    pan, tilt, roll: turns added by t = 1 [rad].
    """

    name: str
    positions: Positions
    focus: float
    look: float = 0.0
    pan: float = 0.0
    tilt: float = 0.0
    roll: float = 0.0

    def __call__(self, t: Array) -> Array:
        t = np.asarray(t, dtype=np.float64)
        at = self.positions(t)
        ahead = np.array([0.0, 0.0, self.focus]) - at
        yaw = self.look * np.arctan2(ahead[:, 0], ahead[:, 2]) + self.pan * t
        level = np.hypot(ahead[:, 0], ahead[:, 2])
        pitch = self.look * np.arctan2(-ahead[:, 1], level) + self.tilt * t
        return transforms(at, yaw, pitch, self.roll * t)


def transforms(positions: Array, yaw: Array, pitch: Array, roll: Array) -> Array:
    """Camera-to-world `[n 4 4]` from positions `[n 3]` and angles `[n]` in radians (right, up, clockwise)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    about_y = np.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).reshape(-1, 3, 3)
    about_x = np.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).reshape(-1, 3, 3)
    about_z = np.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    result = np.zeros((len(positions), 4, 4))
    result[:, :3, :3] = about_y @ about_x @ about_z
    result[:, :3, 3] = positions
    result[:, 3, 3] = 1
    return result


def path_length(positions: Positions) -> float:
    """Length of the path from t = 0 to 1 [m]."""
    steps = np.diff(positions(np.linspace(0, 1, NUM_LENGTH_STEPS + 1)), axis=0)
    return float(np.linalg.norm(steps, axis=1).sum())


def draw_move(rng: np.random.Generator, length: float, focus: float) -> Move:
    """A random move whose path from t = 0 to 1 is `length` long, around things `focus` ahead [m]."""
    name = MOVES[int(rng.integers(len(MOVES)))]
    return make_move(name, rng, length, focus)


def make_move(name: str, rng: np.random.Generator, length: float, focus: float) -> Move:
    """A move of the given kind, one of MOVES, otherwise as `draw_move`."""
    ease = _easing(rng)
    side = float(rng.choice([-1, 1]))
    angle = length / focus
    drift = rng.normal(0, 0.12, 3)
    if name == "truck":
        shape = _line(np.array([side, *rng.normal(0, [0.12, 0.15])]))
        return Move(name, _scaled(shape, ease, length), focus, look=rng.uniform(0, 0.3))
    if name == "pan_truck":
        shape = _line(np.array([side, *rng.normal(0, [0.1, 0.25])]))
        pan = -side * angle * rng.uniform(-0.35, 0.9)
        return Move(name, _scaled(shape, ease, length), focus, pan=pan)
    if name == "dolly":
        shape = _line(np.array([*rng.normal(0, [0.25, 0.1]), rng.choice([1.0, 1.0, -1.0])]))
        return Move(name, _scaled(shape, ease, length), focus, look=rng.uniform(0, 0.6))
    if name == "diagonal":
        shape = _line(
            np.array([side * rng.uniform(0.5, 1), rng.normal(0, 0.2), rng.normal(0.3, 0.7)])
        )
        roll = rng.normal(0, 0.04)
        return Move(name, _scaled(shape, ease, length), focus, look=rng.uniform(0, 0.8), roll=roll)
    if name == "pedestal":
        shape = _line(np.array([rng.normal(0, 0.3), side, rng.normal(0, 0.2)]))
        return Move(name, _scaled(shape, ease, length), focus, look=rng.uniform(0.2, 0.9))
    if name == "crane":
        # Up and forwards, or back and down, along a quarter of an arc.
        turn = rng.uniform(0.6, 1.3)

        def crane(t: Array) -> Array:
            lift = np.stack([drift[0] * t, -np.sin(turn * t), (1 - np.cos(turn * t))], -1)
            return lift * [1, side, 1]

        return Move(name, _scaled(crane, ease, length), focus, look=rng.uniform(0.5, 1.0))
    if name == "orbit":
        rise = rng.normal(0, 0.15) * focus

        def orbit(t: Array) -> Array:
            turn = side * angle * t
            return np.stack([focus * np.sin(turn), rise * turn, focus * (1 - np.cos(turn))], -1)

        return Move(name, _scaled(orbit, ease, length), focus, look=1.0)
    if name == "arc":
        bend = rng.uniform(-1.0, 1.0)

        def arc(t: Array) -> Array:
            return np.stack([side * t, drift[1] * t, bend * t * (t - 1) + drift[2] * t], -1)

        return Move(name, _scaled(arc, ease, length), focus, look=rng.uniform(0, 1))
    if name == "spiral":
        turns, forward = rng.uniform(0.6, 1.2), rng.uniform(-0.4, 1.0)
        start, flat = rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1.0)

        def spiral(t: Array) -> Array:
            turn = start + side * 2 * math.pi * turns * t
            x, y = np.cos(turn) - math.cos(start), np.sin(turn) - math.sin(start)
            return np.stack([x, flat * y, 2 * forward * t], -1)

        return Move(name, _scaled(spiral, ease, length), focus, look=rng.uniform(0.3, 1.0))
    assert name == "handheld", f"no move is called {name}"
    rates, phases = rng.uniform(0.3, 0.8, 3), rng.uniform(0, 2 * math.pi, 3)
    way = rng.normal(0, 1, 3) * [1.0, 0.3, 0.8]
    way *= rng.uniform(0.7, 1.2) / np.linalg.norm(way)
    sway = np.array([0.35, 0.18, 0.25])

    def handheld(t: Array) -> Array:
        wave = np.sin(2 * math.pi * rates * t[:, None] + phases) - np.sin(phases)
        return way * t[:, None] + sway * wave

    pan, tilt, roll = rng.normal(0, [0.06, 0.03, 0.03])
    positions = _scaled(handheld, ease, length)
    return Move(name, positions, focus, rng.uniform(0, 0.7), pan, tilt, roll)


MOVES = (
    "truck", "pan_truck", "dolly", "diagonal", "pedestal", "crane", "orbit", "arc", "spiral", "handheld",
)  # fmt: skip


def _easing(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Monotone changes of pace that keep t = 0 and t = 1."""
    strength = rng.uniform(-0.5, 0.5)

    def ease(t: Array) -> Array:
        return t + strength * np.sin(2 * math.pi * t) / (2 * math.pi)

    return ease


def _line(direction: Array) -> Positions:
    def line(t: Array) -> Array:
        return t[:, None] * direction

    return line


def _scaled(shape: Positions, ease: Callable[[Array], Array], length: float) -> Positions:
    """The same path at another pace, `length` long."""
    scale = length / path_length(shape)

    def positions(t: Array) -> Array:
        return scale * shape(ease(t))

    return positions

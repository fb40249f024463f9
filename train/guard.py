"""Tells steps that would harm the weights: NaN, infinity, and spikes against the recent past."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from pydantic import Field

from configs.loader import Config

WINDOW = 100
"""Good steps that "recent" means."""
MIN_HISTORY = 20
"""Good steps before spikes are judged at all."""


class GuardConfig(Config):
    """When a step is left out, and when the run gives up. All values are ours."""

    loss_spike: float | None = Field(10.0, gt=1, description="times the recent median; null: never")
    norm_spike: float | None = Field(50.0, gt=1, description="same, for the gradient's norm")
    max_bad_steps: int = Field(10, ge=1, description="left-out steps in a row that end the run")


class Guard:
    """Keeps the losses and gradient norms of recent good steps, and judges new ones by them.

    The history is the same on every rank, so that all take the same decision.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.bad_in_a_row = 0
        self.num_skipped = 0

    def loss_is_bad(self, loss: float) -> bool:
        """Whether a batch's loss is not finite or a spike."""
        return not math.isfinite(loss) or abs(loss) > _limit(self.losses, self.config.loss_spike)

    @property
    def norm_limit(self) -> float:
        """The largest gradient norm that is not a spike; infinity while there is little history."""
        return _limit(self.norms, self.config.norm_spike)

    def record(self, loss: float, norm: float, applied: bool) -> None:
        """Takes note of a finished step. Left-out ones don't move the limits."""
        if applied:
            self.bad_in_a_row = 0
            self.losses.append(abs(loss))
            self.norms.append(norm)
        else:
            self.bad_in_a_row += 1
            self.num_skipped += 1

    @property
    def gives_up(self) -> bool:
        return self.bad_in_a_row >= self.config.max_bad_steps

    def state(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "bad_in_a_row": self.bad_in_a_row,
            "num_skipped": self.num_skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=WINDOW)
        self.norms = deque(state["norms"], maxlen=WINDOW)
        self.bad_in_a_row = state["bad_in_a_row"]
        self.num_skipped = state["num_skipped"]


def _limit(history: deque[float], factor: float | None) -> float:
    if factor is None or len(history) < MIN_HISTORY:
        return math.inf
    return factor * median(history)

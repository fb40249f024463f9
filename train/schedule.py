"""The learning rate over a run: linear warm-up, then a cosine down to a floor."""

from __future__ import annotations

import math

from pydantic import Field

from configs.loader import Config


class ScheduleConfig(Config):
    """Shape of the learning rate over `loop.steps`, relative to `optimizer.lr`."""

    warmup_steps: int = Field(100, ge=0)
    floor: float = Field(0.0, ge=0, le=1, description="share of the peak that the cosine ends at")

    def factor(self, step: int, steps: int) -> float:
        """What the peak learning rate is multiplied by at step `step` (from 0) of `steps`, in [0, 1].

        Reaches 1 at step `warmup_steps` - 1, or at once without warm-up; past the end it stays at the floor.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))

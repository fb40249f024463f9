"""How noisy the latents are that a prior is asked about."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.loader import Config


class NoiseConfig(Config):
    """DreamGaussian's: from almost all noise to almost none, linearly over the run. Shares of the schedule."""

    first: float = Field(0.98, ge=0, le=1, description="noise level at the start")
    last: float = Field(0.02, ge=0, le=1, description="noise level at the end")

    @model_validator(mode="after")
    def _it_falls(self) -> NoiseConfig:
        if self.last > self.first:
            raise ValueError(f"last {self.last} is above first {self.first}; noise has to fall")
        return self

    def level(self, progress: float, num_levels: int) -> int:
        """The level, 0 to `num_levels` - 1, when a share `progress` of the run is over."""
        share = self.first + (self.last - self.first) * min(max(progress, 0.0), 1.0)
        return min(num_levels - 1, round(share * num_levels))

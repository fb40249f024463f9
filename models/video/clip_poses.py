"""What the frames of a clip say about the cameras they were drawn for.

A video model may not go where it is told to. Who measures that is handed to the pipeline: direct alignment of the
frames needs more than the models do (`eval.cameras.followed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras


@dataclass(frozen=True)
class ClipPoses:
    """What was found of one clip.

    cameras: one a frame, relative to the first, in the clip's own unit, to go on with; None where the commanded ones
        stay.
    note: a clause that says what was found and what is gone on with.
    numbers: plain JSON, for the record.
    """

    cameras: Cameras | None
    note: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


PoseEstimator = Callable[[Float[Tensor, "t 3 h w"], Cameras], ClipPoses]
"""From a clip's frames, in [0, 1] on the CPU, and its commanded cameras, in its own axes and unit."""

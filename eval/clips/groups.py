"""The groups of measures that a clip can be scored by, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from configs.loader import Config
from eval.cameras.camera_error import CameraErrorConfig
from eval.cameras.photometric import PhotometricConfig
from eval.cameras.tsed import TsedConfig
from eval.consistency.measure import ConsistencyConfig
from eval.images.image_scores import ImageScoreConfig
from eval.scores.measured import NotAvailable
from eval.scores.protocols import FrameProtocol, ProtocolName

Group = Literal["images", "camera", "tsed", "photometric", "consistency"]
CameraCheck = Literal["refuse", "warn", "no"]
GROUPS: tuple[Group, ...] = ("images", "camera", "tsed", "photometric", "consistency")
WITH_CAMERAS: tuple[Group, ...] = ("camera", "tsed", "photometric", "consistency")
ON_CAMERA_FRAMES: tuple[Group, ...] = ("camera", "tsed", "photometric")
WITH_MATCHES: tuple[Group, ...] = ("camera", "tsed")
NO_REFERENCE = NotAvailable(
    "image metrics need the real frames of the same views: give them with --reference"
)
NO_CAMERAS = NotAvailable(
    "it needs the cameras that the frames should have been taken from: give them with --cameras"
)


class ClipMeasuresConfig(Config):
    """Which groups of metrics run, on which frames, and how."""

    metrics: tuple[Group, ...] = Field(GROUPS, min_length=1, description="groups that are measured")
    protocol: ProtocolName | FrameProtocol = Field(
        "all", description="which frames count: a preset, or counts of one's own"
    )
    check_cameras: CameraCheck = Field(
        "refuse",
        description="what to do with cameras that the frames show to be in another convention",
    )
    images: ImageScoreConfig = ImageScoreConfig()
    camera: CameraErrorConfig = CameraErrorConfig()
    tsed: TsedConfig = TsedConfig()
    photometric: PhotometricConfig = PhotometricConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()

    def measures(self) -> ClipMeasuresConfig:
        """These settings alone, without those of a recipe that has more."""
        return ClipMeasuresConfig(
            **{name: getattr(self, name) for name in ClipMeasuresConfig.model_fields}
        )

    def seeded(self, seed: int) -> ClipMeasuresConfig:
        """The same with all seeds moved along by `seed`."""
        camera = self.camera.model_copy(update={"seed": self.camera.seed + seed})
        pairs = self.tsed.model_copy(update={"seed": self.tsed.seed + seed})
        pixels = self.photometric.model_copy(update={"seed": self.photometric.seed + seed})
        seeds = tuple(seed + one for one in self.consistency.seeds)
        consistency = self.consistency.model_copy(update={"seeds": seeds})
        return self.model_copy(
            update={
                "camera": camera,
                "tsed": pairs,
                "photometric": pixels,
                "consistency": consistency,
            }
        )


def available(group: Mapping[str, Any] | None) -> bool:
    """Whether a line's group was measured at all."""
    return group is not None and set(group) != {"not_available"}

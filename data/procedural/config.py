"""What a procedural clip looks like: sizes, number of views, lens and travel."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.loader import Config


class SceneConfig(Config):
    """Settings of `data.procedural.clips.make_clip`; a clip is a function of (seed, these) alone.

    Lengths are in median depths of the first frame, angles in degrees.
    """

    height: int = Field(64, ge=8)
    width: int = Field(96, ge=8)
    num_frames: int = Field(17, ge=2, description="views along the camera path")
    num_near: int = Field(4, ge=0, description="extra views a little beside and past the path")
    num_far: int = Field(4, ge=0, description="extra views well off the path")
    supersampling: int = Field(2, ge=1, le=8, description="rays a pixel, along each side")
    vertical_fov_deg: tuple[float, float] = (26.0, 64.0)
    travel: tuple[float, float] = Field((0.12, 1.0), description="length of the camera path")
    near_offset: tuple[float, float] = (0.05, 0.2)
    far_offset: tuple[float, float] = (0.25, 0.6)
    room_share: float = Field(0.55, ge=0, le=1, description="rooms; the rest are open grounds")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> SceneConfig:
        limits = {
            "vertical_fov_deg": (5.0, 120.0),
            "travel": (0.0, 2.0),
            "near_offset": (0.0, 2.0),
            "far_offset": (0.0, 2.0),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least < low <= high <= most:
                raise ValueError(
                    f"{name} is ({low:g}, {high:g}); expected lower, upper with"
                    f" {least:g} < lower <= upper <= {most:g}"
                )
        return self

"""Which frames of a clip each kind of score looks at, by the name of a published protocol."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.errors import UserError
from configs.loader import Config

ProtocolName = Literal["wonderland", "all"]


class FrameProtocol(Config):
    """So many frames from the first; null takes all. The first frame, which went in, is among them."""

    similarity_frames: int | None = Field(
        None, ge=2, description="for PSNR, SSIM, MS-SSIM and LPIPS"
    )
    camera_frames: int | None = Field(None, ge=2, description="for R_err and T_err")
    set_frames: int | None = Field(None, ge=2, description="for FID, KID and FVD")

    def similarity_views(self, num_frames: int, source: str) -> range:
        """The frames that are compared with the reference; raises UserError where the clip is shorter."""
        return _first(self.similarity_frames, num_frames, source, "similarity")

    def camera_views(self, num_frames: int, source: str) -> range:
        """The frames whose cameras are judged; raises UserError where the clip is shorter."""
        return _first(self.camera_frames, num_frames, source, "camera error")

    def set_views(self, num_frames: int, source: str) -> range:
        """The frames that enter the set metrics; raises UserError where the clip is shorter."""
        return _first(self.set_frames, num_frames, source, "set metrics")


PROTOCOLS: dict[ProtocolName, FrameProtocol] = {
    "all": FrameProtocol(),
    "wonderland": FrameProtocol(similarity_frames=14, camera_frames=16),
}
"""`wonderland` is that of arXiv 2412.12091: similarity on the first 14 frames, camera error on the first 16. The
paper does not say which frames enter FID and FVD, nor whether the input frame counts among the first; that all enter
and that it counts is our reading."""


def find_protocol(protocol: ProtocolName | FrameProtocol) -> FrameProtocol:
    """The protocol of a recipe's value: a preset's name, or frame counts of one's own."""
    return protocol if isinstance(protocol, FrameProtocol) else PROTOCOLS[protocol]


def _first(wanted: int | None, num_frames: int, source: str, what: str) -> range:
    if wanted is None:
        return range(num_frames)
    if num_frames < wanted:
        raise UserError(
            f"{source}: {num_frames} frames, but the protocol takes the first {wanted} for {what}; a clip's later"
            " frames are the harder ones, so fewer would flatter: use protocol=all, or clips that are long enough"
        )
    return range(wanted)

"""Distortion-aware Gaussians: each generated frame sees the scene a little deformed, so that it need not blur it.

After LiftImage3D (arXiv 2412.09597): a generated video's frames don't quite agree on one scene, so each gets a small
smooth deformation of the canonical Gaussians, their centres, rotations and scales, and the canonical scene is the one
at the input frame, where the deformation is nothing. There the field is a HexPlane over space and time with an MLP
that is pulled to zero at the input; here each frame has a grid over what its own camera sees, and the input frame has
none. The choices are ours. A grid starts as the identity and trains as fast as the Gaussians do. And it knows nothing
of depth: a field that may move near and far things differently can say with deformations what parallax says, so that
the frames would no longer hold the scene's own depth.

Legend: t frames, n Gaussians, y x cells of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from configs.loader import Config
from data.cameras import Cameras
from models.gaussians import Gaussians, multiply_quats
from train.fitting.adam_state import load_adam, save_adam

NUM_CHANNELS = 9
"""Shift of the centre, rotation vector, change of the log scales: three each."""
NEAREST = 1e-2
"""Depths are kept this far from the camera [scene units]."""
ADAM_EPS = 1e-15


class DeformationConfig(Config):
    """How finely and how strongly frames may deform the scene."""

    rows: int = Field(
        4, ge=2, description="of cells over a frame's height, as many of that size over its width"
    )
    rate: float = Field(
        1e-2,
        gt=0,
        description="of shifts as shares of depth, of radians, and of log scales, a step",
    )
    size_weight: float = Field(1e3, ge=0, description="of the mean squared deformation")
    smooth_weight: float = Field(
        1e3, ge=0, description="of the mean squared difference between cells side by side"
    )
    start: float = Field(0.0, ge=0, lt=1, description="share of the run before frames deform")


class DeformationField:
    """The deformations of all frames but the first, which has none."""

    def __init__(self, cameras: Cameras, config: DeformationConfig, like: Tensor) -> None:
        """cameras: of all frames, the input first. like: the grid is of its device and kind."""
        self.cameras, self.config = cameras.to(like.device), config
        columns = max(2, round(config.rows * cameras.width / cameras.height))
        shape = (cameras.num_views - 1, NUM_CHANNELS, config.rows, columns)
        self.grid = nn.Parameter(like.new_zeros(shape))
        self.adam = torch.optim.Adam([self.grid], lr=0.0, eps=ADAM_EPS)

    def deformed(self, gaussians: Gaussians, frame: int) -> Gaussians:
        """The scene as `frame` sees it; the first sees it as it is. Differentiable in both."""
        if frame == 0:
            return gaussians
        camera = self.cameras.select(frame)
        places, z = _places(camera, gaussians.means.detach())
        found = F.grid_sample(
            self.grid[frame - 1][None],
            places[None, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, :, 0].T
        # The grid speaks in the axes of the frame's camera.
        to_world = camera.camera_to_world[0, :3, :3].to(found)
        shift, turn, growth = found.split(3, dim=-1)
        shift, turn = shift @ to_world.T, turn @ to_world.T
        # Half the rotation vector is the quaternion's vector part, to first order.
        quats = torch.cat([torch.ones_like(turn[:, :1]), 0.5 * turn], dim=-1)
        return replace(
            gaussians,
            means=gaussians.means + z[:, None] * shift,
            quats=F.normalize(multiply_quats(quats, gaussians.quats), dim=-1),
            scales=gaussians.scales * growth.exp(),
        )

    def penalty(self) -> Float[Tensor, ""]:
        """What keeps deformations small and smooth."""
        config, total = self.config, self.grid.new_zeros(())
        if config.size_weight:
            total = total + config.size_weight * self.grid.square().mean()
        if config.smooth_weight:
            for axis in (2, 3):
                total = total + config.smooth_weight * self.grid.diff(dim=axis).square().mean()
        return total

    def step(self, progress: float, decay: float) -> None:
        """Goes down the gradient that the loss has left; decay: what the rates have fallen to."""
        self.adam.param_groups[0]["lr"] = self.config.rate * decay
        if progress >= self.config.start:
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """For a continued run."""
        return {"grid": self.grid.detach(), **save_adam(self.adam, self.grid)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            self.grid.copy_(state["grid"])
        load_adam(self.adam, self.grid, state)


def _places(
    camera: Cameras, means: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Where a camera sees points, -1 to 1 (right, down), at the border where it does not, and their depth there,
    kept positive."""
    pixels, z = camera.project(means)
    size = means.new_tensor([camera.width, camera.height])
    places = (2 * pixels[0] / size - 1).nan_to_num(0.0).clamp(-1, 1)
    return places, z[0].clamp_min(NEAREST)

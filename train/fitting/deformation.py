"""Distortion-aware Gaussians: each generated frame sees the scene a little deformed, so that it need not blur it.

After LiftImage3D (arXiv 2412.09597): a generated video's frames don't quite agree on one scene, so each gets a small
smooth deformation of the canonical Gaussians, their centres, rotations and scales, and the canonical scene is the one
at the input frame, where the deformation is nothing. There the field is a HexPlane with an MLP that is pulled to zero
at the input; here it is a grid over what the input camera sees, which has no entry for the input frame at all. Both
choices are ours: a grid starts as the identity, and trains as fast as the Gaussians do.

Legend: t frames, n Gaussians, z y x cells of the grid.
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
DEPTH_QUANTILES = (0.02, 0.98)
"""The grid spans these quantiles of the scene's inverse depths."""
NEAREST = 1e-2
ADAM_EPS = 1e-15


class DeformationConfig(Config):
    """How finely and how strongly frames may deform the scene."""

    depth_cells: int = Field(4, ge=2, description="of the grid, over inverse depth")
    cell_px: float = Field(8.0, gt=0, description="side of a cell in the input view")
    rate: float = Field(
        3e-2,
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

    def __init__(
        self, num_frames: int, camera: Cameras, scene: Gaussians, config: DeformationConfig
    ) -> None:
        """camera: the input view's. scene: tells the range of depths."""
        self.camera, self.config = camera.select(0), config
        _, z = self.camera.project(scene.means.detach())
        inverse = 1 / z[0][z[0] > NEAREST]
        if not len(inverse):
            inverse = scene.means.new_ones(1)
        bounds = torch.tensor(DEPTH_QUANTILES).to(inverse)
        self.low, self.high = torch.quantile(
            inverse[:: 1 + len(inverse) // 100_000], bounds
        ).tolist()
        rows = max(2, round(camera.height / config.cell_px))
        columns = max(2, round(camera.width / config.cell_px))
        shape = (num_frames - 1, NUM_CHANNELS, config.depth_cells, rows, columns)
        self.grid = nn.Parameter(scene.means.new_zeros(shape))
        self.adam = torch.optim.Adam([self.grid], lr=0.0, eps=ADAM_EPS)

    def deformed(self, gaussians: Gaussians, frame: int) -> Gaussians:
        """The scene as `frame` sees it; the first sees it as it is. Differentiable in both."""
        if frame == 0:
            return gaussians
        places, z = self._places(gaussians.means.detach())
        found = F.grid_sample(
            self.grid[frame - 1][None],
            places[None, None, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, :, 0, 0].T  # fmt: skip
        shift, turn, growth = found.split(3, dim=-1)
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
            for axis in (2, 3, 4):
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

    def _places(self, means: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Tensor]:
        """Where Gaussians are in the grid, -1 to 1 (x, y, z), and their depth in the input view, kept positive."""
        pixels, z = self.camera.project(means)
        pixels, z = pixels[0], z[0].clamp_min(NEAREST)
        inverse = (1 / z - self.low) / max(self.high - self.low, 1e-6)
        size = pixels.new_tensor([self.camera.width, self.camera.height])
        across = (pixels / size).nan_to_num(0.5)
        return 2 * torch.cat([across, inverse[:, None]], dim=-1).clamp(0, 1) - 1, z

"""Density control in plain PyTorch, by the rules of gsplat 1.5.3's `DefaultStrategy` (3DGS, sec. 5).

Opacities are never reset, as they never are there: its condition `step % reset_every == 0 & step > 0` holds for no
step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.gaussians import quat_to_matrix
from models.rendering.screen import ScreenTrace
from train.fitting.density import DensityConfig, EditableScene

SPLIT_SHRINK = 1.6
"""Both halves of a split Gaussian are smaller by this."""


class TorchDensityControl:
    """A `DensityControl`. `grown`, `pruned`: how many Gaussians came and went so far."""

    def __init__(
        self,
        config: DensityConfig,
        scene: EditableScene,
        min_opacity: float,
        generator: torch.Generator,
    ) -> None:
        self.config, self.scene, self.generator = config, scene, generator
        self.min_opacity = min_opacity
        self.grown = self.pruned = 0
        self.gradient_sums: Float[Tensor, " n"]
        self.counts: Float[Tensor, " n"]
        self._reset()

    def watches(self, step: int) -> bool:
        return step < self.config.stop

    @torch.no_grad()
    def after_step(self, step: int, trace: ScreenTrace, size: tuple[int, int]) -> None:
        config = self.config
        self._note(trace, size)
        if step <= config.start or step % config.every:
            return
        self._grow(self.gradient_sums / self.counts.clamp_min(1))
        self._prune(step)
        self._reset()

    def keep_rows(self, rows: Tensor) -> None:
        self.gradient_sums, self.counts = self.gradient_sums[rows], self.counts[rows]

    def state(self) -> dict[str, Tensor]:
        return {"gradient_sums": self.gradient_sums, "counts": self.counts}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        device = self.gradient_sums.device
        self.gradient_sums = state["gradient_sums"].to(device)
        self.counts = state["counts"].to(device)

    def _reset(self) -> None:
        self.gradient_sums = self.scene.raw.tensors["means"].new_zeros(self.scene.raw.num_gaussians)
        self.counts = torch.zeros_like(self.gradient_sums)

    def _note(self, trace: ScreenTrace, size: tuple[int, int]) -> None:
        """Adds up the gradients of each Gaussian over the views that draw it."""
        height, width = size
        half_sides = trace.gradients.new_tensor([width / 2, height / 2])
        # The loss is a mean over the views, and a view's own gradient is what counts.
        gradients = (trace.gradients * half_sides * len(trace.gradients)).norm(dim=-1)
        drawn = trace.radii > 0
        self.gradient_sums += torch.where(drawn, gradients, 0.0).sum(dim=0)
        self.counts += drawn.sum(dim=0)

    def _grow(self, gradients: Float[Tensor, " n"]) -> None:
        config, raw = self.config, self.scene.raw.tensors
        wanted = gradients > config.grow_gradient
        if config.max_gaussians is not None:
            wanted &= self._largest(gradients, wanted, config.max_gaussians - len(gradients))
        small = raw["scales"].exp().amax(dim=-1) <= config.split_scale * config.scene_scale
        clones, splits = (torch.nonzero(wanted & kind)[:, 0] for kind in (small, ~small))
        self.grown += len(clones) + len(splits)
        if len(clones):
            self.scene.append_rows({name: value[clones] for name, value in raw.items()})
        if len(splits):
            halves = self._halves(splits)
            keep = torch.ones(self.scene.raw.num_gaussians, dtype=torch.bool, device=splits.device)
            keep[splits] = False
            rest = torch.nonzero(keep)[:, 0]
            self.scene.append_rows(halves)
            new = torch.arange(len(keep), self.scene.raw.num_gaussians, device=splits.device)
            self.scene.keep_rows(torch.cat([rest, new]))

    def _largest(
        self, gradients: Float[Tensor, " n"], wanted: Bool[Tensor, " n"], room: int
    ) -> Bool[Tensor, " n"]:
        chosen = torch.zeros_like(wanted)
        order = torch.where(wanted, gradients, -1.0).argsort(descending=True, stable=True)
        chosen[order[: max(0, room)]] = True
        return chosen

    def _halves(self, rows: Tensor) -> dict[str, Tensor]:
        """Two Gaussians for each, placed at random by its own distribution; the first of all, then the second."""
        raw = {name: value.detach()[rows] for name, value in self.scene.raw.tensors.items()}
        scales = raw["scales"].exp()
        draws = torch.randn(2, len(rows), 3, generator=self.generator).to(scales)
        offsets = torch.einsum("nij,nj,bnj->bni", quat_to_matrix(raw["quats"]), scales, draws)
        halves = {name: torch.cat([value, value]) for name, value in raw.items()}
        halves["means"] = (raw["means"] + offsets).flatten(0, 1)
        halves["scales"] = (scales / SPLIT_SHRINK).log().repeat(2, 1)
        return halves

    def _prune(self, step: int) -> None:
        config, raw = self.config, self.scene.raw.tensors
        gone = raw["opacities"].sigmoid() < self.min_opacity
        if step > config.prune_large_after:
            gone |= raw["scales"].exp().amax(dim=-1) > config.prune_scale * config.scene_scale
        keep = torch.nonzero(~gone)[:, 0]
        if len(keep) and len(keep) < len(gone):
            self.pruned += len(gone) - len(keep)
            self.scene.keep_rows(keep)

"""Density control: Gaussians are cloned and split where the picture wants more of them, and pruned where it does not.

The rules are those of gsplat 1.5.3's `DefaultStrategy` (3DGS, sec. 5), which itself runs on CUDA
(`train.fitting.gsplat_density`); here they are in plain PyTorch for everywhere else. Opacities are never reset, as they
never are there: its condition `step % reset_every == 0 & step > 0` holds for no step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from models.gaussians import quat_to_matrix
from models.rendering.screen import ScreenTrace
from train.fitting.parameters import RawGaussians

SPLIT_SHRINK = 1.6
"""Both halves of a split Gaussian are smaller by this."""


class DensityConfig(Config):
    """When and where Gaussians come and go. Thresholds are gsplat's; steps suit runs of some hundreds."""

    start: int = Field(100, ge=0, description="steps before the first change")
    stop: int = Field(15_000, gt=0, description="no change from this step on")
    every: int = Field(100, gt=0)
    grow_gradient: float = Field(
        2e-4,
        gt=0,
        description="mean size of the loss' gradient by the place on the screen, whose half sides are 1, above"
        " which a Gaussian is cloned or split",
    )
    split_scale: float = Field(
        0.01,
        gt=0,
        description="larger ones are split, smaller ones cloned; share of the scene's scale",
    )
    prune_scale: float = Field(
        0.1, gt=0, description="larger ones are pruned, of the scene's scale"
    )
    prune_large_after: int = Field(3000, ge=0, description="steps before that is done")
    scene_scale: float = Field(1.0, gt=0, description="scene units")
    max_gaussians: int | None = Field(
        None, gt=0, description="no more than these: the largest gradients come first; ours"
    )


@runtime_checkable
class EditableScene(Protocol):
    """What density control works on (`train.fitting.optimiser.SceneOptimiser`)."""

    raw: RawGaussians
    adams: dict[str, torch.optim.Adam]

    def keep_rows(self, rows: Tensor) -> None:
        """Re-indexes parameters and moments."""
        ...

    def append_rows(self, new: Mapping[str, Tensor]) -> None:
        """Adds raw Gaussians with moments of zero."""
        ...


@runtime_checkable
class DensityControl(Protocol):
    """What a `SceneOptimiser` asks after every step."""

    def watches(self, step: int) -> bool:
        """Whether it wants a trace of this step's render."""
        ...

    def after_step(self, step: int, trace: ScreenTrace, size: tuple[int, int]) -> None:
        """Takes note of a step's trace, and changes the scene where it is time to. size: height, width [px]."""
        ...

    def keep_rows(self, rows: Tensor) -> None:
        """The scene was re-indexed by `rows`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it has taken note of."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


def make_density_control(
    config: DensityConfig, scene: EditableScene, min_opacity: float, generator: torch.Generator
) -> DensityControl:
    """gsplat's own for a scene on CUDA, the same rules elsewhere. min_opacity: fainter Gaussians are pruned."""
    if scene.raw.tensors["means"].is_cuda:
        from train.fitting.gsplat_density import GsplatDensityControl

        return GsplatDensityControl(config, scene, min_opacity)
    return DefaultDensityControl(config, scene, min_opacity, generator)


class DefaultDensityControl:
    """The rules in PyTorch. `grown`, `pruned`: how many Gaussians came and went so far."""

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

"""Density control on CUDA: gsplat's `DefaultStrategy`, on our optimiser's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from configs.errors import UserError
from models.rendering.screen import ScreenTrace
from train.fitting.density import DensityConfig, EditableScene

RUNNING = ("grad2d", "count")
"""What the strategy keeps for each Gaussian between two changes."""


class GsplatDensityControl:
    """A `DensityControl` that leaves all of it to gsplat.

    gsplat draws where halves go from torch's generator of the device: `generator`, on the CPU, seeds that for each
    step, and leaves it otherwise as it was.
    """

    def __init__(
        self,
        config: DensityConfig,
        scene: EditableScene,
        min_opacity: float,
        generator: torch.Generator,
    ) -> None:
        """Raises UserError where gsplat is missing, or is asked for what it does not have."""
        try:
            from gsplat.strategy import DefaultStrategy
        except ImportError as error:
            raise UserError(
                f"density control on CUDA needs gsplat ({error}); install it with: pip install '.[gpu]'"
            ) from error
        if config.max_gaussians is not None:
            raise UserError(
                "density.max_gaussians is not something that gsplat's strategy has; leave it out, or fit"
                " on the CPU"
            )
        self.scene, self.generator = scene, generator
        self.strategy = DefaultStrategy(
            prune_opa=min_opacity,
            grow_grad2d=config.grow_gradient,
            grow_scale3d=config.split_scale,
            prune_scale3d=config.prune_scale,
            refine_start_iter=config.start,
            refine_stop_iter=config.stop,
            refine_every=config.every,
            reset_every=max(1, config.prune_large_after),
        )
        self.running = self.strategy.initialize_state(config.scene_scale)

    def watches(self, step: int) -> bool:
        return step < self.strategy.refine_stop_iter

    def after_step(self, step: int, trace: ScreenTrace, size: tuple[int, int]) -> None:
        height, width = size
        told = {
            "width": width,
            "height": height,
            "n_cameras": len(trace.radii),
            "radii": trace.radii[..., None].expand(*trace.radii.shape, 2),
            "gaussian_ids": None,
            "means2d": SimpleNamespace(grad=trace.gradients),
        }
        seed = int(torch.randint(2**62, (), generator=self.generator))
        device = self.scene.raw.tensors["means"].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.strategy.step_post_backward(
                self.scene.raw.tensors, self.scene.adams, self.running, step, told
            )

    def keep_rows(self, rows: Tensor) -> None:
        for name in RUNNING:
            if self.running[name] is not None:
                self.running[name] = self.running[name][rows]

    def state(self) -> dict[str, Tensor]:
        return {name: self.running[name] for name in RUNNING if self.running[name] is not None}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        device = self.scene.raw.tensors["means"].device
        self.running.update({name: value.to(device) for name, value in state.items()})

"""The one optimiser of a scene: Adam with a rate a group, pruning, and density control.

It knows nothing of where the loss comes from; fitting posed frames, 3D consistency, polishing and refinement by
distillation all step through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from models.gaussians import Gaussians
from models.rendering.screen import ScreenTrace
from models.stopwatch import Stopwatch
from train.fitting.adam_state import load_adam, save_adam
from train.fitting.density import DensityConfig, DensityControl, EditableScene
from train.fitting.gsplat_density import GsplatDensityControl
from train.fitting.parameters import FitRates, RawGaussians
from train.fitting.torch_density import TorchDensityControl

ADAM_EPS = 1e-15


class OptimiserConfig(Config):
    """How a scene's Gaussians move, come and go."""

    iterations: int = Field(400, gt=0)
    rates: FitRates = FitRates()
    final_rate: float = Field(
        0.05, gt=0, le=1, description="the rates fall exponentially to this share of their start"
    )
    prune_every: int = Field(100, gt=0)
    min_opacity: float = Field(0.01, ge=0, lt=1, description="fainter Gaussians are pruned")
    density: DensityConfig | None = Field(
        None, description="clone and split Gaussians where the picture wants more; None does not"
    )


class SceneOptimiser:
    """Gaussians in the making.

    A step is `gaussians()` rendered into a loss, with `trace()` handed to the renderer, then `step(loss)`.
    """

    def __init__(
        self, initial: Gaussians, config: OptimiserConfig, generator: torch.Generator
    ) -> None:
        """generator: on the CPU, draws where split Gaussians go. Raises UserError for an empty scene."""
        if initial.num_gaussians == 0:
            raise UserError("fit: there are no Gaussians to start from")
        self.config = config
        self.raw = RawGaussians.from_gaussians(initial)
        # One Adam a group, as gsplat's strategies expect it.
        self.adams = {
            name: torch.optim.Adam([value], lr=0.0, eps=ADAM_EPS)
            for name, value in self.raw.tensors.items()
        }
        self.num_steps = 0
        self._density: DensityControl | None = None
        if config.density is not None:
            self._density = make_density_control(
                config.density, self, config.min_opacity, generator
            )

    @property
    def num_gaussians(self) -> int:
        return self.raw.num_gaussians

    def gaussians(self) -> Gaussians:
        """The scene as it is, differentiable."""
        return self.raw.gaussians()

    def trace(self) -> ScreenTrace | None:
        """What the next render should fill, where density control wants to know."""
        if self._density is None or not self._density.watches(self.num_steps):
            return None
        return ScreenTrace()

    def step(
        self,
        loss: Tensor,
        progress: float,
        trace: ScreenTrace | None = None,
        size: tuple[int, int] = (1, 1),
        watch: Stopwatch | None = None,
    ) -> None:
        """Goes down the loss' gradient, then prunes, clones and splits where it is time to.

        progress: share of the run that is over, for the rates. trace: what the render filled. size: height and
        width of the pictures [px]; a trace needs it. watch: told of the seconds of "rasteriser" (the backward pass)
        and "optimiser".
        """
        watch = watch or Stopwatch(loss.device)
        rates = self.config.rates
        for name, adam in self.adams.items():
            adam.param_groups[0]["lr"] = getattr(rates, name) * self.config.final_rate**progress
            adam.zero_grad(set_to_none=True)
        with watch("rasteriser"):
            loss.backward()
        with watch("optimiser"):
            self._move(trace, size)

    def _move(self, trace: ScreenTrace | None, size: tuple[int, int]) -> None:
        for adam in self.adams.values():
            adam.step()
        self.raw.project()
        if self._density is not None and trace is not None:
            self._density.after_step(self.num_steps, trace, size)
        self.num_steps += 1
        if self.num_steps % self.config.prune_every:
            return
        opaque = self.raw.opaque_rows(self.config.min_opacity)
        # Frames that look like the background let every Gaussian fade: a scene keeps them then.
        if len(opaque):
            self.keep_rows(opaque)
            if self._density is not None:
                self._density.keep_rows(opaque)

    def keep_rows(self, rows: Tensor) -> None:
        """Re-indexes every parameter and its moments by `rows`."""
        self._replace(
            {name: value.detach()[rows] for name, value in self.raw.tensors.items()},
            lambda moment: moment[rows],
        )

    def append_rows(self, new: Mapping[str, Tensor]) -> None:
        """Adds Gaussians, as raw parameters, whose moments start from zero."""
        count = len(new["means"])
        self._replace(
            {
                name: torch.cat([value.detach(), new[name]])
                for name, value in self.raw.tensors.items()
            },
            lambda moment: torch.cat([moment, moment.new_zeros(count, *moment.shape[1:])]),
        )

    def state(self) -> dict[str, Tensor]:
        """All that a continued run needs to go on as if it had not stopped, by name."""
        found = {"num_steps": torch.tensor(self.num_steps)}
        for name, value in self.raw.tensors.items():
            found[f"raw.{name}"] = value.detach()
            moments = save_adam(self.adams[name], value)
            found |= {f"{name}.{key}": moment for key, moment in moments.items()}
        if self._density is not None:
            found |= {f"density.{key}": value for key, value in self._density.state().items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state()` was taken, from an optimiser of the same config."""
        self.num_steps = int(state["num_steps"])
        for name, adam in self.adams.items():
            device = self.raw.tensors[name].device
            value = nn.Parameter(state[f"raw.{name}"].to(device, copy=True))
            self.raw.tensors[name] = value
            load_adam(adam, value, under(f"{name}.", state))
        if self._density is not None:
            self._density.load_state(under("density.", state))

    def _replace(
        self, values: Mapping[str, Tensor], edit_moment: Callable[[Tensor], Tensor]
    ) -> None:
        for name, adam in self.adams.items():
            old = save_adam(adam, self.raw.tensors[name])
            value = nn.Parameter(values[name])
            load_adam(adam, value, {k: edit_moment(v) if v.ndim else v for k, v in old.items()})
            self.raw.tensors[name] = value


def make_density_control(
    config: DensityConfig, scene: EditableScene, min_opacity: float, generator: torch.Generator
) -> DensityControl:
    """gsplat's own for a scene on CUDA, the same rules elsewhere. min_opacity: fainter Gaussians are pruned."""
    if scene.raw.tensors["means"].is_cuda:
        return GsplatDensityControl(config, scene, min_opacity, generator)
    return TorchDensityControl(config, scene, min_opacity, generator)


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }

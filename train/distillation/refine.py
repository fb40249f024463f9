"""Refinement of one scene by a prior, tied to the pictures that it came from.

A step renders views that the prior wants to look at and takes the gradient of distillation by them, or of their
difference from pictures that the prior has drawn anew (`train.distillation.redrawing`), and renders the input view,
and some of the frames if there are any, and takes that of their difference. What the Gaussians get is the sum.
Constants follow DreamGaussian (arXiv 2309.16653) and, for frames that do not quite agree, LiftImage3D (arXiv
2412.09597); it differs in that cameras stay around the scene's own path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.priors.interface import DiffusionPrior
from models.rendering.render import render
from models.rendering.screen import ScreenTrace
from models.stopwatch import Stopwatch
from train.distillation.cameras import CameraSamplerConfig, ViewSampler
from train.distillation.evidence import Evidence, EvidenceConfig
from train.distillation.loss import distillation_loss
from train.distillation.noise import NoiseConfig
from train.distillation.redrawing import RedrawConfig, Redrawn, redraw
from train.fitting.deformation import DeformationConfig, DeformationField
from train.fitting.optimiser import OptimiserConfig, SceneOptimiser, under
from train.fitting.parameters import FitRates
from train.fitting.poses import PoseConfig, PoseCorrections
from train.fitting.resolution import ResolutionConfig, shrink_size
from train.randomness import derive_seed


class RefineConfig(OptimiserConfig):
    """How a scene is refined."""

    iterations: int = Field(500, gt=0)
    rates: FitRates = FitRates(means=1e-3, quats=5e-3, scales=5e-3, opacities=2e-2, colors=5e-3)
    noise: NoiseConfig = NoiseConfig()
    cameras: CameraSamplerConfig = CameraSamplerConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    resolution: ResolutionConfig = ResolutionConfig()
    redraw: RedrawConfig | None = Field(
        None, description="fit the scene to pictures that the prior draws anew, and distil nothing"
    )
    distill_weight: float = Field(1.0, ge=0, description="of the prior")
    input_weight: float = Field(
        1e4, ge=0, description="of the input view's mean squared error, at the end of the ramp"
    )
    ramp: bool = Field(
        True,
        description="the input's weight grows from 0 with the share of the run, as DreamGaussian's",
    )
    frame_weight: float = Field(1e3, ge=0, description="of the other frames' mean absolute error")
    frames_per_step: int = Field(2, gt=0, description="of the frames after the input")
    deformation: DeformationConfig | None = Field(
        DeformationConfig(), description="let frames after the input deform the scene a little"
    )
    poses: PoseConfig | None = Field(
        None, description="optimise the cameras of the frames after the input with the scene"
    )
    background: float = Field(0.5, ge=0, le=1, description="grey behind the Gaussians")


@dataclass(frozen=True)
class RefineStep:
    """What the progress callback is told. losses: by name, weighted."""

    step: int
    losses: dict[str, float]
    num_gaussians: int


class Refinement:
    """A refinement under way: `step` by step, with a `state` to go on from.

    Every step draws from a generator of its own, made of (seed, step), so that a continued run is the same run.
    """

    def __init__(
        self,
        scene: Gaussians,
        sampler: ViewSampler,
        evidence: Evidence | None,
        prior: DiffusionPrior | None,
        config: RefineConfig,
        seed: int,
    ) -> None:
        """evidence: None where the scene comes from words alone.

        Raises UserError where there is nothing to go by.
        """
        others = evidence.shown_frames if evidence is not None else []
        looks = evidence is not None and (
            config.input_weight > 0 or (len(others) > 0 and config.frame_weight > 0)
        )
        self.prior = prior if config.distill_weight or config.redraw is not None else None
        if not looks and self.prior is None:
            raise UserError(
                "refine: without a prior, frames or the input there is nothing to go by"
            )
        self.config, self.evidence, self.seed = config, evidence, seed
        self.redrawn: Redrawn | None = None
        self.sampler = sampler
        splits = torch.Generator().manual_seed(derive_seed("refine splits", seed))
        self.scene = SceneOptimiser(scene, config, splits)
        self._splits = splits
        self.field: DeformationField | None = None
        if config.deformation is not None and evidence is not None and others:
            self.field = DeformationField(evidence.cameras, config.deformation, scene.means)
        self.poses: PoseCorrections | None = None
        if config.poses is not None and evidence is not None and others:
            self.poses = PoseCorrections(evidence.cameras, config.poses)
        self.watch = Stopwatch(scene.means.device)
        self.background = scene.means.new_full((3,), config.background)

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return self.scene.num_steps

    @property
    def is_done(self) -> bool:
        return self.num_steps >= self.config.iterations

    def gaussians(self) -> Gaussians:
        """The scene as it is now."""
        return self.scene.gaussians().detach()

    def run(self, on_step: Callable[[RefineStep], None] | None = None) -> Gaussians:
        """Takes the steps that are left."""
        while not self.is_done:
            done = self.step()
            if on_step is not None:
                on_step(done)
        return self.gaussians()

    def step(self) -> RefineStep:
        """One step; raises UserError where the scene has run away."""
        step, progress = self.num_steps, self.num_steps / self.config.iterations
        # A renderer leaves out what is not finite, so that no loss may show it.
        self._check_finite(self.scene.raw.tensors.values(), step)
        generator = torch.Generator().manual_seed(derive_seed("refine", self.seed, step))
        gaussians, trace = self.scene.gaussians(), self.scene.trace()
        losses: dict[str, Tensor] = {}
        size = (1, 1)
        if self.prior is not None and self.config.redraw is not None:
            losses["redrawn"], size = self._redrawn_loss(
                self.prior, self.config.redraw, gaussians, progress, generator, trace
            )
        elif self.prior is not None:
            cameras = self._shrunk(self.sampler.draw(self.prior, generator), progress)
            size = (cameras.height, cameras.width)
            with self.watch("rasteriser"):
                drawn = render(
                    gaussians,
                    cameras.to(gaussians.means.device),
                    background=self.background,
                    trace=trace,
                )
            losses["prior"] = self._distilled(drawn.frames, cameras, progress, generator)
        if self.evidence is not None:
            # Density control follows the prior's views where there are any, else the input.
            ours = None if losses else trace
            losses |= self._evidence_losses(self.evidence, gaussians, progress, generator, ours)
            if ours is not None:
                size = self._evidence_size(self.evidence, progress)
        if self.field is not None:
            losses["deformation"] = self.field.penalty()
        total = torch.stack(list(losses.values())).sum()
        self._check_finite([total], step)
        traced = trace if trace is not None and len(trace.radii) else None
        self.scene.step(total, progress, traced, size, self.watch)
        for beside in (self.field, self.poses):
            if beside is not None:
                beside.step(progress, self.config.final_rate**progress)
        told = {name: float(value.detach()) for name, value in losses.items()}
        return RefineStep(step, told, self.scene.num_gaussians)

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, beside what the refinement was made with."""
        found = {f"scene.{name}": value for name, value in self.scene.state().items()}
        found["splits"] = self._splits.get_state()
        if self.redrawn is not None:
            found |= {f"redrawn.{name}": value for name, value in self.redrawn.state().items()}
        for name, value in self.watch.seconds.items():
            found[f"seconds.{name}"] = torch.tensor(value, dtype=torch.float64)
        if self.field is not None:
            found |= {f"field.{name}": value for name, value in self.field.state().items()}
        if self.poses is not None:
            found |= {f"poses.{name}": value for name, value in self.poses.state().items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state` was taken."""
        self.scene.load_state(under("scene.", state))
        self._splits.set_state(state["splits"])
        if redrawn := under("redrawn.", state):
            self.redrawn = Redrawn.of_state(redrawn, self.background.device)
        for name, value in under("seconds.", state).items():
            self.watch.seconds[name] = self.watch.seconds.get(name, 0.0) + float(value)
        if self.field is not None:
            self.field.load_state(under("field.", state))
        if self.poses is not None:
            self.poses.load_state(under("poses.", state))

    def _redrawn_loss(
        self,
        prior: DiffusionPrior,
        config: RedrawConfig,
        gaussians: Gaussians,
        progress: float,
        generator: torch.Generator,
        trace: ScreenTrace | None,
    ) -> tuple[Float[Tensor, ""], tuple[int, int]]:
        """The difference from some of the round's pictures, and their size. A round begins with new ones."""
        if self.redrawn is None or self.num_steps % config.every == 0:
            self.redrawn = redraw(
                gaussians.detach(),
                prior,
                self.sampler,
                config,
                progress,
                self.background,
                generator,
                self.watch,
            )
        pictures = self.redrawn
        order = torch.randperm(len(pictures.frames), generator=generator)[: config.views_per_step]
        cameras = pictures.cameras.select(order)
        with self.watch("rasteriser"):
            drawn = render(
                gaussians,
                cameras.to(gaussians.means.device),
                background=self.background,
                trace=trace,
            )
        wanted = pictures.frames[order.to(pictures.frames.device)]
        loss = config.weight * (drawn.frames - wanted).abs().mean()
        return loss, (cameras.height, cameras.width)

    def _distilled(
        self,
        frames: Float[Tensor, "v 3 h w"],
        cameras: Cameras,
        progress: float,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The distillation loss with the prior's own part of the gradient already taken.

        What is left to do is linear in the frames, so that the time of the backward pass is the rasteriser's.
        """
        assert self.prior is not None
        with self.watch("prior"):
            leaf = frames.detach().requires_grad_()
            level = self.config.noise.level(progress, len(self.prior.signal))
            loss = distillation_loss(self.prior, leaf, cameras, level, generator)
            (gradient,) = torch.autograd.grad(self.config.distill_weight * loss, leaf)
        value = self.config.distill_weight * loss.detach()
        linear = (frames * gradient).sum()
        return linear + (value - linear.detach())

    def _check_finite(self, tensors: Iterable[Tensor], step: int) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise UserError(
                f"refine: the scene ran away at step {step}; lower rates.means, or distill_weight if there is a prior"
            )

    def _evidence_size(self, evidence: Evidence, progress: float) -> tuple[int, int]:
        shrink = self.config.resolution.shrink_at(progress)
        return shrink_size(evidence.cameras.height, evidence.cameras.width, shrink)

    def _evidence_losses(
        self,
        evidence: Evidence,
        gaussians: Gaussians,
        progress: float,
        generator: torch.Generator,
        trace: ScreenTrace | None,
    ) -> dict[str, Tensor]:
        config, size = self.config, self._evidence_size(evidence, progress)
        losses = {}
        ramp = progress if config.ramp and self.prior is not None else 1.0
        if config.input_weight * ramp:
            drawn, truth, shown = self._seen(evidence, gaussians, 0, size, trace)
            squares = (drawn - truth).square().mean(dim=0)
            losses["input"] = config.input_weight * ramp * _mean_where(squares, shown)
        others = evidence.shown_frames
        if others and config.frame_weight:
            order = torch.randperm(len(others), generator=generator)[: config.frames_per_step]
            parts = []
            for view in (others[i] for i in order.tolist()):
                deformed = gaussians if self.field is None else self.field.deformed(gaussians, view)
                drawn, truth, shown = self._seen(evidence, deformed, view, size, None)
                parts.append(_mean_where((drawn - truth).abs().mean(dim=0), shown))
            losses["frames"] = config.frame_weight * torch.stack(parts).mean()
        return losses

    def _seen(
        self,
        evidence: Evidence,
        gaussians: Gaussians,
        view: int,
        size: tuple[int, int],
        trace: ScreenTrace | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The scene's picture of one view, the true one, and how much of each pixel is shown."""
        camera = evidence.cameras.select(view).resize(*size)
        if self.poses is not None:
            camera = self.poses.corrected(evidence.cameras.resize(*size), [view])
        truth, shown = evidence.frames[view], evidence.shown[view].to(self.background)
        if tuple(truth.shape[1:]) != size:
            weighted = torch.cat([truth * shown, shown[None]])
            small = F.interpolate(weighted[None], size, mode="area")[0]
            shown = small[3]
            truth = small[:3] / shown.clamp_min(1e-6)
        with self.watch("rasteriser"):
            drawn = render(
                gaussians,
                camera,
                background=self.background,
                trace=trace,
            )
        return drawn.frames[0], truth, shown

    def _shrunk(self, cameras: Cameras, progress: float) -> Cameras:
        """Smaller pictures early on, for a prior that takes any size."""
        assert self.prior is not None
        if self.prior.frame_size is not None:
            return cameras
        shrink = self.config.resolution.shrink_at(progress)
        return cameras.resize(*shrink_size(cameras.height, cameras.width, shrink))


def _mean_where(values: Float[Tensor, "h w"], weights: Float[Tensor, "h w"]) -> Float[Tensor, ""]:
    return (values * weights).sum() / weights.sum().clamp_min(1)

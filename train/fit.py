"""Per-scene optimisation: Gaussians fitted to posed frames by gradient.

It serves as the baseline that a feed-forward model is held to, and to polish what such a model
predicted. Loss and the division of learning rates follow Kerbl et al. 2023 (3DGS); the rates
themselves are ours, since scenes here have median depth 1 and runs are a few hundred steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.gaussians import Gaussians
from models.rendering.render import render
from train.ssim import structural_similarity

LOGIT_LIMIT = 1e-4
"""Opacities are kept this far from 0 and 1, where the logit is infinite."""


class FitRates(Config):
    """Adam's learning rate of each group, at the start."""

    means: float = Field(3e-3, gt=0, description="scene units a step")
    quats: float = Field(1e-2, gt=0)
    scales: float = Field(2e-2, gt=0, description="of the log scales")
    opacities: float = Field(5e-2, gt=0, description="of the opacity logits")
    colors: float = Field(1e-2, gt=0)


class FitConfig(Config):
    """How long and how fast to fit."""

    iterations: int = Field(400, gt=0)
    seconds: float | None = Field(
        None, gt=0, description="stop after this long; repeatable only without it"
    )
    views_per_step: int = Field(4, gt=0)
    rates: FitRates = FitRates()
    final_rate: float = Field(
        0.05, gt=0, le=1, description="the rates fall exponentially to this share of their start"
    )
    ssim_weight: float = Field(0.2, ge=0, le=1, description="weight of 1 - SSIM beside L1")
    prune_every: int = Field(100, gt=0)
    min_opacity: float = Field(0.01, ge=0, lt=1, description="fainter Gaussians are pruned")
    background: float = Field(0.5, ge=0, le=1, description="grey behind the Gaussians")


class StartConfig(Config):
    """Where a fit from nothing starts: Gaussians at random pixels and random depths."""

    num_gaussians: int = Field(20_000, gt=0)
    near: float = Field(0.4, gt=0, description="smallest z-depth, scene units")
    far: float = Field(10.0, gt=0, description="largest z-depth; uniform in inverse depth")
    opacity: float = Field(0.1, gt=0, lt=1)
    footprint: float = Field(
        0.7, gt=0, description="standard deviation as a share of the mean spacing at its depth"
    )


@dataclass(frozen=True)
class FitStep:
    """What the progress callback is told: the step just done and the state it left."""

    step: int
    loss: float
    num_gaussians: int
    seconds: float


def fit_gaussians(
    initial: Gaussians,
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: FitConfig,
    generator: torch.Generator,
    on_step: Callable[[FitStep], None] | None = None,
) -> Gaussians:
    """The scene that fits `frames` best after `config.iterations` steps from `initial` (unbatched).

    frames: in [0, 1], one a view of `cameras`, which are taken as exact. Views are drawn without
    replacement, round after round, from `generator`, so equal seeds give equal scenes. Raises
    UserError where there is nothing to start from or frames and cameras differ in number.
    """
    if len(frames) != cameras.num_views:
        raise UserError(f"fit: {len(frames)} frames but {cameras.num_views} cameras")
    if initial.num_gaussians == 0:
        raise UserError("fit: there are no Gaussians to start from")
    raw = RawGaussians.from_gaussians(initial)
    optimiser = raw.optimiser(config.rates)
    background = frames.new_full((3,), config.background)
    order: list[int] = []
    started = time.monotonic()
    for step in range(config.iterations):
        elapsed = time.monotonic() - started
        progress = step / config.iterations
        if config.seconds is not None:
            if elapsed >= config.seconds:
                break
            progress = max(progress, elapsed / config.seconds)
        for group in optimiser.param_groups:
            group["lr"] = group["start"] * config.final_rate**progress
        while len(order) < min(config.views_per_step, len(frames)):
            order += torch.randperm(len(frames), generator=generator).tolist()
        views, order = order[: config.views_per_step], order[config.views_per_step :]

        drawn = render(raw.gaussians(), cameras.select(views), background=background).frames
        loss = photometric_loss(drawn, frames[views], config.ssim_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        raw.project()
        if (step + 1) % config.prune_every == 0:
            opaque = raw.opaque_rows(config.min_opacity)
            # Frames that look like the background let every Gaussian fade: a scene keeps them then.
            if len(opaque):
                raw.keep_rows(optimiser, opaque)
        if on_step is not None:
            on_step(FitStep(step, loss.item(), raw.num_gaussians, time.monotonic() - started))
    return raw.gaussians().detach()


def photometric_loss(
    drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"], ssim_weight: float
) -> Float[Tensor, ""]:
    """(1 - w) L1 + w (1 - SSIM), means over views and pixels. 3DGS, eq. 7, with w = 0.2 there."""
    loss = (1 - ssim_weight) * (drawn - truth).abs().mean()
    if ssim_weight:
        loss = loss + ssim_weight * (1 - structural_similarity(drawn, truth))
    return loss


def random_gaussians(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    config: StartConfig,
    generator: torch.Generator,
) -> Gaussians:
    """Gaussians at random pixels of random views and at random depths, in their pixels' colours."""
    num_views, _, height, width = frames.shape
    count = config.num_gaussians
    views = torch.randint(num_views, (count,), generator=generator)
    rows = torch.randint(height, (count,), generator=generator)
    columns = torch.randint(width, (count,), generator=generator)
    share = torch.rand(count, generator=generator)
    depth = 1 / (1 / config.far + share * (1 / config.near - 1 / config.far))
    return gaussians_at_pixels(
        frames, cameras, (views, rows, columns), depth, config.opacity, config.footprint
    )


def gaussians_from_depth(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    depth: Float[Tensor, "v h w"],
    config: StartConfig,
    generator: torch.Generator,
) -> Gaussians:
    """As `random_gaussians`, but at the given z-depths [scene units]; 0 is unknown and left out."""
    known = torch.nonzero(depth > 0)
    if not len(known):
        raise UserError(
            "fit: no pixel of the depth maps is known; start from random depths instead"
        )
    chosen = torch.randperm(len(known), generator=generator)[: config.num_gaussians]
    views, rows, columns = known[chosen].unbind(1)
    return gaussians_at_pixels(
        frames,
        cameras,
        (views, rows, columns),
        depth[views, rows, columns],
        config.opacity,
        config.footprint,
    )


def gaussians_at_pixels(
    frames: Float[Tensor, "v 3 h w"],
    cameras: Cameras,
    pixels: tuple[Tensor, Tensor, Tensor],
    depth: Float[Tensor, " n"],
    opacity: float,
    footprint: float,
) -> Gaussians:
    """Round Gaussians on the rays of `pixels` (view, row, column), in the pixels' colours.

    Their standard deviation is `footprint` times the spacing at their depth of as many Gaussians,
    spread evenly over one image.
    """
    views, rows, columns = pixels
    count, (_, _, height, width) = len(views), frames.shape
    origins, directions = cameras.rays()
    to_world = cameras.camera_to_world
    along = directions[views, rows, columns]
    along = along / (along * to_world[views, :3, 2]).sum(-1, keepdim=True)
    spacing_px = max(1.0, (height * width / count) ** 0.5)
    spread = footprint * spacing_px * depth / cameras.intrinsics[views, 0, 0]
    identity = frames.new_tensor([1.0, 0.0, 0.0, 0.0])
    return Gaussians(
        means=(origins[views] + depth[:, None] * along).to(frames.dtype),
        quats=identity.expand(count, 4).clone(),
        scales=spread[:, None].expand(count, 3).to(frames.dtype).clone(),
        opacities=frames.new_full((count,), opacity),
        colors=frames[views, :, rows, columns].clone(),
    )


class RawGaussians:
    """The optimised parameters: log scales, opacity logits, and the rest as they are.

    This is where a densification strategy plugs in: `keep_rows` re-indexes parameters and Adam's
    moments together, and rows may be repeated to clone.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: value.requires_grad_() for name, value in tensors.items()}

    @staticmethod
    def from_gaussians(gaussians: Gaussians) -> RawGaussians:
        tensors = {name: value.detach().clone() for name, value in gaussians.tensors().items()}
        tensors["scales"] = tensors["scales"].log()
        tensors["opacities"] = tensors["opacities"].clamp(LOGIT_LIMIT, 1 - LOGIT_LIMIT).logit()
        return RawGaussians(tensors)

    @property
    def num_gaussians(self) -> int:
        return self.tensors["means"].shape[0]

    def gaussians(self) -> Gaussians:
        """The activated Gaussians, differentiable in the raw parameters."""
        raw = self.tensors
        return Gaussians(
            means=raw["means"],
            quats=torch.nn.functional.normalize(raw["quats"], dim=-1),
            scales=raw["scales"].exp(),
            opacities=raw["opacities"].sigmoid(),
            colors=raw["colors"],
        )

    def optimiser(self, rates: FitRates) -> torch.optim.Adam:
        """Adam with one group a tensor; each group remembers its name and its rate at the start."""
        groups = [
            {"params": [value], "name": name, "start": getattr(rates, name), "lr": 0.0}
            for name, value in self.tensors.items()
        ]
        return torch.optim.Adam(groups, lr=0.0, eps=1e-15)

    @torch.no_grad()
    def project(self) -> None:
        """Moves RGB colours back into [0, 1]; spherical harmonics have no such bounds."""
        if self.tensors["colors"].ndim == 2:
            self.tensors["colors"].clamp_(0, 1)

    def opaque_rows(self, min_opacity: float) -> Tensor:
        """Indices of what to keep: opacity at least `min_opacity`, all parameters finite."""
        keep = self.tensors["opacities"].sigmoid() >= min_opacity
        for value in self.tensors.values():
            keep &= value.isfinite().reshape(len(keep), -1).all(dim=1)
        return torch.nonzero(keep)[:, 0]

    def keep_rows(self, optimiser: torch.optim.Adam, rows: Tensor) -> None:
        """Re-indexes every parameter and its moments by `rows`."""
        for group in optimiser.param_groups:
            old = group["params"][0]
            new = old.detach()[rows].requires_grad_()
            state = optimiser.state.pop(old, {})
            optimiser.state[new] = {
                key: value[rows] if value.ndim else value for key, value in state.items()
            }
            group["params"] = [new]
            self.tensors[group["name"]] = new

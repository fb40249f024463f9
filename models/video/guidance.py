"""Classifier-free guidance by image, camera and text, inside the module that a sampling loop calls.

Guidance compares the video model with itself, given less. Conditions are added one after another: the
negative prompt alone, then the image, then the cameras, then the prompt in place of the negative one. With
v_0 .. v_3 for the predictions on the way,

    v = v_0 + image (v_1 - v_0) + camera (v_2 - v_1) + text (v_3 - v_2)

(InstructPix2Pix, arXiv 2211.09800, eq. 3, with one condition more). At scale 1 a condition is obeyed as it was
learnt; where two scales are the same, the prediction between them drops out and is not made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.video.model import VideoModel


class GuidanceConfig(Config):
    """How strongly each condition is obeyed: 1 as learnt, 0 not at all, more than 1 exaggerates."""

    image: float = Field(1.0, ge=0)
    camera: float = Field(1.0, ge=0)
    text: float = Field(1.0, ge=0, description="against the negative prompt; needs a prompt")
    evaluation: Literal["batched", "sequential"] = Field(
        "batched", description="predictions of a step all at once, or one by one in less memory"
    )


@dataclass(frozen=True)
class Term:
    """One prediction of the video model, and its weight in the sum."""

    weight: float
    image: bool
    cameras: bool
    prompt: bool


def guidance_terms(
    guidance: GuidanceConfig, *, has_cameras: bool, has_text: bool
) -> tuple[Term, ...]:
    """The predictions that have a part in the guided one; their weights add up to 1.

    has_text: there is a negative text beside the prompt's; otherwise all predictions have the same text.
    """
    stages = [(1.0, (False, False, not has_text)), (guidance.image, (True, False, not has_text))]
    if has_cameras:
        stages.append((guidance.camera, (True, True, not has_text)))
    if has_text:
        stages.append((guidance.text, (True, has_cameras, True)))
    nexts = [scale for scale, _ in stages[1:]] + [0.0]
    return tuple(
        Term(scale - following, *given)
        for (scale, given), following in zip(stages, nexts, strict=True)
        if scale != following
    )


@dataclass(frozen=True)
class Conditions:
    """What a batch of clips is sampled under, beside image and prompt.

    cameras: `[b t]`. negative_text: embeddings to guide away from; None where there is no guidance by text.
    """

    cameras: Cameras | None
    negative_text: Float[Tensor, "b n e"] | None
    guidance: GuidanceConfig


@dataclass(frozen=True)
class Prediction:
    """The latest guided prediction, to be looked at while sampling goes on."""

    noisy: Float[Tensor, "b c p h w"]
    velocity: Float[Tensor, "b c p h w"]
    timesteps: Int[Tensor, " b"]


class GuidedTransformer(nn.Module):
    """A video model where diffusers' CogVideoX pipeline expects its transformer.

    It is called as the stock transformer is, under `conditions`, and gives the guided prediction.
    """

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model
        # A frozen base is outside the model's module tree; here it counts, for moves and offload.
        self.transformer = model.base.transformer
        self.latest: Prediction | None = None
        self._conditions: Conditions | None = None

    @property
    def config(self) -> Any:
        return self.transformer.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.base.dtype

    @property
    def device(self) -> torch.device:
        return self.model.base.device

    def cache_context(self, name: str) -> Any:
        """The stock transformer's, for feature caches that a user may have switched on."""
        return self.transformer.cache_context(name)

    @contextmanager
    def conditions(self, conditions: Conditions) -> Iterator[None]:
        """Calls within get these conditions."""
        self._conditions = conditions
        try:
            yield
        finally:
            self._conditions = self.latest = None

    def forward(
        self,
        hidden_states: Float[Tensor, "b p double_c h w"],
        encoder_hidden_states: Float[Tensor, "b n e"],
        timestep: Int[Tensor, " b"],
        **stock: Any,
    ) -> tuple[Float[Tensor, "b p c h w"]]:
        """The guided v-prediction.

        hidden_states: noisy latents, and beside them the image's on the first frame. encoder_hidden_states: the
        prompt's embedding. stock: what else the stock loop gives; positions are the video model's own.
        """
        assert self._conditions is not None, "called outside `conditions`"
        noisy, image = hidden_states.transpose(1, 2).chunk(2, dim=1)
        velocity = self._guided(noisy, image[:, :, :1], encoder_hidden_states, timestep)
        self.latest = Prediction(noisy, velocity, timestep)
        return (velocity.transpose(1, 2),)

    def _guided(self, noisy: Tensor, image: Tensor, prompt: Tensor, timesteps: Tensor) -> Tensor:
        given = self._conditions
        assert given is not None
        has_text = given.negative_text is not None
        terms = guidance_terms(
            given.guidance, has_cameras=given.cameras is not None, has_text=has_text
        )
        negative = given.negative_text if given.negative_text is not None else prompt
        if given.guidance.evaluation == "batched":
            parts = self._predict(terms, noisy, image, prompt, negative, timesteps).chunk(
                len(terms)
            )
        else:
            parts = tuple(
                self._predict((term,), noisy, image, prompt, negative, timesteps) for term in terms
            )
        if len(terms) == 1:  # its weight is 1
            return parts[0]
        return sum(
            (term.weight * part for term, part in zip(terms, parts, strict=True)),
            torch.zeros_like(noisy),
        )

    def _predict(
        self,
        terms: tuple[Term, ...],
        noisy: Tensor,
        image: Tensor,
        prompt: Tensor,
        negative: Tensor,
        timesteps: Tensor,
    ) -> Tensor:
        """The predictions of all terms, one batch after another."""
        assert self._conditions is not None
        steered = [term.cameras for term in terms]
        cameras, mask = None, None
        if self._conditions.cameras is not None and any(steered):
            cameras = repeat_cameras(self._conditions.cameras, len(terms))
            if not all(steered):
                mask = torch.tensor(steered, device=noisy.device).repeat_interleave(len(noisy))
        return self.model(
            torch.cat([noisy] * len(terms)),
            torch.cat([image if term.image else torch.zeros_like(image) for term in terms]),
            torch.cat([timesteps] * len(terms)),
            torch.cat([prompt if term.prompt else negative for term in terms]),
            cameras,
            mask,
        )


def repeat_cameras(cameras: Cameras, count: int) -> Cameras:
    """A batch `[b t]` of cameras `count` times over, `[count * b t]`."""
    return replace(
        cameras,
        world_to_camera=cameras.world_to_camera.repeat(count, 1, 1, 1),
        intrinsics=cameras.intrinsics.repeat(count, 1, 1, 1),
    )


def check_negative_prompt(guidance: GuidanceConfig, has_cameras: bool) -> None:
    """Raises UserError where a negative prompt would have no part in any prediction."""
    terms = guidance_terms(guidance, has_cameras=has_cameras, has_text=True)
    if all(term.prompt for term in terms):
        raise UserError(
            f"a negative prompt has no effect at text guidance {guidance.text:g}; raise it, to 6 for"
            " example, or leave the negative prompt out"
        )

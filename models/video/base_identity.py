"""Which base some weights were trained on: its sizes, and a few of its weights to tell equal sizes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from configs.errors import UserError
from configs.loader import Config

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

NUM_PROBES = 16
PROBE_TOLERANCE = 0.02
"""As a share of the largest probe: four times what rounding to bfloat16 does."""


class BaseIdentity(Config):
    """What has to be equal for branches to fit a base."""

    layers: int
    heads: int
    head_width: int
    patch: int
    time_width: int
    latent_channels: int
    probes: tuple[float, ...] | None = None

    @staticmethod
    def of(transformer: CogVideoXTransformer3DModel) -> BaseIdentity:
        """The identity of a base; without probes where its weights have no values (meta, fake tensors)."""
        config = transformer.config
        return BaseIdentity(
            layers=config.num_layers,
            heads=config.num_attention_heads,
            head_width=config.attention_head_dim,
            patch=config.patch_size,
            time_width=config.time_embed_dim,
            latent_channels=config.out_channels,
            probes=_probes(transformer.proj_out.weight),
        )

    def check(self, transformer: CogVideoXTransformer3DModel, source: str) -> None:
        """Raises UserError, naming `source`, where the base's sizes or weights are others."""
        found = BaseIdentity.of(transformer)
        wrong = [
            f"{name} {getattr(found, name)} instead of {getattr(self, name)}"
            for name in BaseIdentity.model_fields
            if name != "probes" and getattr(found, name) != getattr(self, name)
        ]
        if wrong:
            raise UserError(
                f"{source} were made for another base: this one has {', '.join(wrong)}; use the base that"
                " they were trained on"
            )
        if self.probes is None or found.probes is None:
            return
        ours, theirs = torch.tensor(self.probes), torch.tensor(found.probes)
        if (ours - theirs).abs().max() > PROBE_TOLERANCE * ours.abs().max():
            raise UserError(
                f"{source} were trained on a base of the same size but with other weights; use the base"
                " that they were trained on"
            )


def _probes(weight: torch.Tensor) -> tuple[float, ...] | None:
    if type(weight.data).__name__ == "FakeTensor" or weight.device.type == "meta":
        return None
    values = weight.detach().flatten()
    places = torch.linspace(0, len(values) - 1, NUM_PROBES).long()
    return tuple(float(value) for value in values[places.to(values.device)].float().cpu())

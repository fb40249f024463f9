"""Which base some weights were trained on: its sizes, and a few of its weights to tell equal sizes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.errors import UserError
from configs.loader import Config
from models.weight_probes import Probes, differ, probes_of

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel


class BaseIdentity(Config):
    """What has to be equal for branches to fit a base."""

    layers: int
    heads: int
    head_width: int
    patch: int
    time_width: int
    latent_channels: int
    probes: Probes | None = None

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
            probes=probes_of(transformer.proj_out.weight),
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
        if differ(self.probes, found.probes):
            raise UserError(
                f"{source} were trained on a base of the same size but with other weights; use the base"
                " that they were trained on"
            )

"""The camera-conditioned video model: a CogVideoX base and, where there are any, its camera branches.

Wonderland (arXiv 2412.12091), sec. 3.2. Legend: b batch, c latent channels, p latent frames
(t = 4 (p - 1) + 1 frames), h w latent size, n text tokens, e text width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from configs.errors import UserError
from data.cameras import Cameras
from models.video.base import VideoBase
from models.video.camera_branches import CameraBranches
from models.video.positions import rotary_embedding


class VideoModel(nn.Module):
    """Predicts the velocity (v) of noisy video latents, given an image and, if steered, cameras.

    What is registered here is what trains: the base's transformer with `train_base`, and the branches. A base
    that doesn't train is frozen and kept outside the module tree, so that no engine shards or saves it; it still
    follows this module to a device or dtype and into train or eval mode.
    """

    def __init__(
        self,
        base: VideoBase,
        branches: CameraBranches | None = None,
        *,
        train_base: bool,
        gradient_checkpointing: bool = False,
    ) -> None:
        """branches: attached to the base if they aren't yet, and trained.

        Raises UserError where they don't fit the base.
        """
        super().__init__()
        self.base = base
        self.train_base = train_base
        self.branches = branches
        self._rotary: tuple[Tensor, Tensor]
        self._rotary_key: tuple[int, int, int, torch.device] | None = None
        base.transformer.requires_grad_(train_base)
        if branches is not None:
            branches.requires_grad_(True)
            if branches.transformer is None:
                branches.attach(base.transformer)
            elif branches.transformer is not base.transformer:
                raise UserError(
                    "the camera branches are attached to another base; detach them first"
                )
        if train_base:
            base.transformer.requires_grad_(True)  # PEFT froze what it put low-rank updates beside
        if train_base:
            self.transformer = base.transformer
        if gradient_checkpointing:
            base.transformer.enable_gradient_checkpointing()
        else:
            base.transformer.disable_gradient_checkpointing()

    def forward(
        self,
        noisy: Float[Tensor, "b c p h w"],
        image_latents: Float[Tensor, "b c 1 h w"],
        timesteps: Int[Tensor, " b"],
        text: Float[Tensor, "b n e"] | None = None,
        cameras: Cameras | None = None,
        camera_mask: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c p h w"]:
        """v-prediction, in `noisy`'s dtype.

        image_latents: the clip's first latent frame; zeros where it is dropped.
        text: without it, the zero embedding.
        cameras: `[b t]`, relative to the first frame, in scene units, of the frame size (8h, 8w). Without
        them the bare base runs.
        camera_mask: samples whose cameras count; the others get the bare base.
        Raises UserError where the inputs do not fit each other or the model.
        """
        self._check(noisy, cameras)
        transformer = self.base.transformer
        if text is None:
            text = self.base.no_text(len(noisy))
        steering: AbstractContextManager[None] = nullcontext()
        if cameras is not None and self.branches is not None:
            steering = self.branches.steering(cameras, camera_mask)
        with steering:
            predicted = transformer(
                hidden_states=self.base.transformer_input(noisy, image_latents).to(self.base.dtype),
                encoder_hidden_states=text.to(self.base.dtype),
                timestep=timesteps,
                image_rotary_emb=self._rotary_of(noisy),
                return_dict=False,
            )[0]
        return predicted.transpose(1, 2).to(noisy.dtype)

    def _rotary_of(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        num_frames, height, width = noisy.shape[2:]
        key = (num_frames, height, width, noisy.device)
        if key != self._rotary_key:
            config = self.base.transformer.config
            with torch.inference_mode(False):  # training may use what sampling has made
                self._rotary = rotary_embedding(config, num_frames, height, width, noisy.device)
            self._rotary_key = key
        return self._rotary

    @property
    def checkpointed_blocks(self) -> list[nn.Module]:
        """The blocks of base and branches, where training computes them again in the backward pass."""
        if not self.base.transformer.gradient_checkpointing:
            return []
        control = None if self.branches is None else self.branches.control
        blocks = list(self.base.transformer.transformer_blocks)
        return blocks if control is None else [*blocks, *control.blocks]

    def train(self, mode: bool = True) -> VideoModel:
        super().train(mode)
        self.base.transformer.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if recurse and not self.train_base:
            self.base.transformer._apply(fn)
        return super()._apply(fn, recurse)

    def _check(self, noisy: Tensor, cameras: Cameras | None) -> None:
        config = self.base.transformer.config
        channels, _, height, width = noisy.shape[1:]
        if channels != config.out_channels:
            raise UserError(
                f"latents have {channels} channels; this base takes {config.out_channels}"
            )
        if height % config.patch_size or width % config.patch_size:
            raise UserError(
                f"latents of {height}x{width} do not divide into patches of {config.patch_size}"
            )
        sizes = (config.sample_height, config.sample_width)
        if config.use_learned_positional_embeddings and (height, width) != sizes:
            raise UserError(
                f"latents are {height}x{width}; this base has learned positions, so it takes"
                f" {sizes[0]}x{sizes[1]} alone: resize the frames to {8 * sizes[0]}x{8 * sizes[1]}"
            )
        if cameras is not None and self.branches is None:
            raise UserError(
                "this video model has no camera branches; attach some, or give no cameras"
            )

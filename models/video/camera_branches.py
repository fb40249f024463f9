"""Camera branches that steer a frozen CogVideoX transformer through hooks, without a copy of its forward pass.

Wonderland, sec. 3.2. The base stays diffusers' own: attached branches act only inside `steering`, whoever calls
the base (our model or the stock pipeline), and `detach` leaves nothing behind.

    branches = CameraBranches(CameraBranchesConfig(), base.transformer)
    branches.attach(base.transformer)
    with branches.steering(cameras):
        pipeline(image, ...)

Legend: b batch, t frames, p latent frames, n text tokens, l visual tokens, d token width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.autoencoders.interface import SPATIAL_FACTOR, TEMPORAL_FACTOR
from models.precision import full_precision
from models.video.base_identity import BaseIdentity
from models.video.camera_encoder import CameraEncoder
from models.video.control_branch import ControlBranch
from models.video.lora_branch import FusionBranch, LoraLayers

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

LoraTarget = Literal["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


class CameraBranchesConfig(Config):
    """Which branches, and their sizes. The defaults are the paper's, where it states them."""

    branches: tuple[Literal["control", "lora"], ...] = Field(("control", "lora"), min_length=1)
    control_blocks: int = Field(21, gt=0, description="copied blocks, from the first on")
    lora_rank: int = Field(
        256, ge=0, description="0: the camera tokens are fused in, without low-rank updates"
    )
    lora_targets: tuple[LoraTarget, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="layers of each block with low-rank updates (unstated in the paper)",
    )
    encoder_width: int = Field(128, gt=0, description="channels inside a camera encoder (ours)")
    moment_gain: float = Field(
        1.0, gt=0, description="factor on the rays' moments before the encoders (ours)"
    )

    @model_validator(mode="after")
    def _once(self) -> CameraBranchesConfig:
        for name in ("branches", "lora_targets"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {list(values)} names one twice")
        return self


@dataclass
class Steering:
    """The cameras of one `steering` block; where no gradient is asked for, their tokens are kept."""

    cameras: Cameras
    mask: Bool[Tensor, " b"] | None
    tokens: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class BaseCall:
    """What the hooks of one forward pass of the base hand on to each other."""

    rotary: Any
    attention_kwargs: Any
    num_text: int
    time: Tensor | None = None
    residuals: list[Tensor | None] = field(default_factory=list)
    checkpointing: Callable[..., Any] | None = None


class CameraBranches(nn.Module):
    """The ControlNet branch and the LoRA branch, or one of them, for bases of one size.

    Registered here is all that trains, the low-rank updates inside the base included. A new one changes
    nothing: with it the base's output is the same, bit for bit in float32.
    """

    def __init__(
        self, config: CameraBranchesConfig, transformer: CogVideoXTransformer3DModel
    ) -> None:
        """transformer: the base, whose first blocks are copied; it is not touched. Weights are float32.

        Raises UserError where `config` asks for more blocks than it has.
        """
        super().__init__()
        self.config = config
        self.identity = BaseIdentity.of(transformer)
        token_width = self.identity.heads * self.identity.head_width
        if getattr(transformer, "peft_config", None):
            raise UserError(
                "the base already carries LoRA adapters; detach or unload them before adding camera branches"
            )

        def new_encoder() -> CameraEncoder:
            return CameraEncoder(
                config.encoder_width, token_width, self.identity.patch, config.moment_gain
            )

        self.control: ControlBranch | None = None
        self.fusion: FusionBranch | None = None
        self.lora: LoraLayers | None = None
        if "control" in config.branches:
            if config.control_blocks > self.identity.layers:
                raise UserError(
                    f"control_blocks is {config.control_blocks}, but the base has {self.identity.layers}"
                    f" blocks; set it to {self.identity.layers} or less"
                )
            copied = transformer.transformer_blocks[: config.control_blocks]
            self.control = ControlBranch(new_encoder(), copied, token_width)
        if "lora" in config.branches:
            self.fusion = FusionBranch(new_encoder(), token_width)
            if config.lora_rank:
                self.lora = LoraLayers(transformer, config.lora_rank, config.lora_targets)
        self._transformer: list[CogVideoXTransformer3DModel] = []  # a list is no submodule
        self._handles: list[RemovableHandle] = []
        self._frozen_before: dict[str, bool] = {}
        self._steering: Steering | None = None
        self._call: BaseCall | None = None

    @property
    def transformer(self) -> CogVideoXTransformer3DModel | None:
        """The base that these branches are attached to."""
        return self._transformer[0] if self._transformer else None

    def attach(self, transformer: CogVideoXTransformer3DModel) -> None:
        """Hooks the branches into a base of the size they were made for; outside `steering` they rest.

        Raises UserError where the base is another or already steered.
        """
        if self._transformer:
            raise UserError("these camera branches are attached already; detach them first")
        if getattr(transformer, "peft_config", None):
            raise UserError(
                "the base already carries LoRA adapters or camera branches; detach or unload them first"
            )
        self.identity.model_copy(update={"probes": None}).check(transformer, "the camera branches")
        self._transformer.append(transformer)
        if self.lora is not None:
            self._frozen_before = {n: p.requires_grad for n, p in transformer.named_parameters()}
            self._handles += self.lora.inject(transformer)
        self._handles += [
            transformer.register_forward_pre_hook(self._start, with_kwargs=True),
            transformer.time_embedding.register_forward_hook(self._keep_time),
            transformer.patch_embed.register_forward_hook(self._steer_tokens),
            transformer.register_forward_hook(self._end, always_call=True),
        ]
        if self.control is not None:
            for number, block in enumerate(transformer.transformer_blocks):
                if number < self.config.control_blocks:
                    hook = partial(self._add_residual, number)
                    self._handles.append(block.register_forward_hook(hook))

    def detach(self) -> None:
        """Leaves the base as it was before `attach`; the branches keep their weights."""
        transformer = self.transformer
        if transformer is None:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.lora is not None:
            self.lora.remove(transformer)
            for name, parameter in transformer.named_parameters():
                parameter.requires_grad_(self._frozen_before[name])
        self._transformer.clear()

    @contextmanager
    def steering(self, cameras: Cameras, mask: Bool[Tensor, " b"] | None = None) -> Iterator[None]:
        """Within it, every call of the base follows `cameras` `[b t]` (relative, in scene units).

        The base may be called with a multiple of b samples, as guidance does; the cameras are repeated.
        mask: the samples that are steered; the others get what the bare base gives.
        """
        if not self._transformer:
            raise UserError("these camera branches are not attached to a base; call attach first")
        if self._steering is not None:
            raise UserError("the base is being steered already; leave that `steering` first")
        if mask is not None and len(mask) != len(cameras.world_to_camera):
            raise UserError(
                f"camera mask for {len(mask)} samples, cameras for {len(cameras.world_to_camera)}"
            )
        self._steering = Steering(cameras, mask)
        try:
            yield
        finally:
            self._steering = None

    def forward(
        self,
        tokens: Float[Tensor, "b s d"],
        steering: Steering,
        call: BaseCall,
    ) -> tuple[Float[Tensor, "b s d"], list[Tensor]]:
        """The base's embedded tokens (text, then visual) as it should go on with them, and the residuals.

        The hooks call this once in every steered forward pass of the base.
        """
        batch = len(tokens)
        text, visual = tokens[:, : call.num_text], tokens[:, call.num_text :]
        cameras = self._camera_tokens(steering)
        mask = repeat_to(steering.mask, batch)
        keep = None if mask is None else mask[:, None, None]
        residuals: list[Tensor] = []
        if self.control is not None:
            residuals = self.control(
                visual, text, repeat_to(cameras["control"], batch), partial(self._run_block, call)
            )
            if keep is not None:
                residuals = [residual * keep.to(residual.dtype) for residual in residuals]
        if self.fusion is not None:
            fused = self.fusion(visual, repeat_to(cameras["fusion"], batch))
            if keep is not None:
                fused = torch.where(keep, fused, visual)
            tokens = torch.cat([text, fused], dim=1)
        return tokens, residuals

    def _camera_tokens(self, steering: Steering) -> dict[str, Tensor]:
        if steering.tokens:
            return steering.tokens
        with full_precision(steering.cameras.intrinsics.device):
            rays = steering.cameras.plucker().float()
        parts = {"control": self.control, "fusion": self.fusion}
        tokens = {name: part.encode(rays) for name, part in parts.items() if part is not None}
        if not torch.is_grad_enabled():
            steering.tokens = tokens
        return tokens

    def _run_block(self, call: BaseCall, block: nn.Module, visual: Tensor, text: Tensor) -> Any:
        arguments = (visual, text, call.time, call.rotary, call.attention_kwargs)
        if call.checkpointing is not None:
            return call.checkpointing(block, *arguments)
        return block(*arguments)

    # The hooks, in the order in which a forward pass of the base reaches them.

    def _start(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        steering = self._steering
        if steering is None:
            return
        if args:
            raise UserError(
                "a steered base takes keyword arguments only, as the stock pipeline gives"
            )
        hidden = kwargs["hidden_states"]
        check_cameras(steering.cameras, hidden)
        self._call = BaseCall(
            rotary=kwargs.get("image_rotary_emb"),
            attention_kwargs=kwargs.get("attention_kwargs"),
            num_text=kwargs["encoder_hidden_states"].shape[1],
        )
        mask = repeat_to(steering.mask, len(hidden))
        if self.lora is not None:
            self.lora.switch(True, mask)
        if module.gradient_checkpointing and torch.is_grad_enabled():
            self._call.checkpointing = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = partial(
                self._checkpoint, self._call.checkpointing, mask
            )

    def _keep_time(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._call is not None:
            self._call.time = output

    def _steer_tokens(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if self._call is None or self._steering is None:
            return None
        tokens, residuals = self(output, self._steering, self._call)
        self._call.residuals = list(residuals)
        return tokens

    def _add_residual(self, number: int, module: nn.Module, args: Any, output: Any) -> Any:
        # When gradient checkpointing runs a block again there is no call: nothing of this sum is needed then.
        if self._call is None:
            return None
        residual, self._call.residuals[number] = self._call.residuals[number], None
        return output[0] + residual, output[1]

    def _end(self, module: Any, args: Any, output: Any) -> None:
        if self._call is None:
            return
        if self._call.checkpointing is not None:
            module._gradient_checkpointing_func = self._call.checkpointing
        if self.lora is not None:
            self.lora.switch(False)
        self._call = None

    def _checkpoint(
        self,
        checkpointing: Callable[..., Any],
        mask: Bool[Tensor, " b"] | None,
        block: nn.Module,
        *args: Any,
    ) -> Any:
        """Checkpoints a block so that it runs again as it ran first, with its low-rank updates on."""

        def run(*args: Any) -> Any:
            again = self.lora is not None and self._call is None
            if self.lora is not None and again:
                self.lora.switch(True, mask)
            try:
                return block(*args)
            finally:
                if self.lora is not None and again:
                    self.lora.switch(False)

        return checkpointing(run, *args)


def check_cameras(cameras: Cameras, hidden: Float[Tensor, "b p c h w"]) -> None:
    """Raises UserError where cameras don't belong to latents of this size."""
    batch, num_latents, _, height, width = hidden.shape
    frames = TEMPORAL_FACTOR * (num_latents - 1) + 1
    found = tuple(cameras.world_to_camera.shape[:-2])
    if len(found) != 2 or batch % found[0] or found[1] != frames:
        raise UserError(
            f"cameras are {list(found)} (clips, frames); expected [{batch}, {frames}] for latents of"
            f" {num_latents} frames"
        )
    size = (SPATIAL_FACTOR * height, SPATIAL_FACTOR * width)
    if (cameras.height, cameras.width) != size:
        raise UserError(
            f"cameras are of {cameras.height}x{cameras.width} images; expected {size[0]}x{size[1]}:"
            " resize or crop them with their frames"
        )


def repeat_to(values: Any, batch: int) -> Any:
    """`values` (or None) repeated along axis 0 to `batch`."""
    if values is None or len(values) == batch:
        return values
    return values.repeat(batch // len(values), *[1] * (values.ndim - 1))

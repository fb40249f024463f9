"""Sampling latents of video clips with diffusers' own CogVideoX image-to-video pipeline.

The loop, the schedulers, the noise and the offload are diffusers'. Two adapters stand where it expects its
networks: `GuidedTransformer` for the transformer, and `ReadyLatents` for the autoencoder, since the image comes as
latents of whichever autoencoder the video model was trained with, and latents are what goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.autoencoders.interface import SPATIAL_FACTOR, TEMPORAL_FACTOR, num_latent_frames
from models.torchvision_compat import mend_torchvision
from models.video.guidance import (
    Conditions,
    GuidanceConfig,
    GuidedTransformer,
)
from models.video.model import VideoModel

OffloadMode = Literal["model", "sequential"]


class SamplingConfig(Config):
    """How clips are sampled."""

    steps: int = Field(50, gt=0, description="denoising steps; must divide the 1000 of training")
    scheduler: Literal["ddim", "dpm"] = Field(
        "ddim", description="deterministic, or CogVideoX's stochastic DPM-Solver++ of second order"
    )
    guidance: GuidanceConfig = GuidanceConfig()


@dataclass(frozen=True)
class SamplingStep:
    """Where sampling is.

    clean: what the model now takes the clean latents to be; decoded, it is a preview.
    """

    done: int
    total: int
    clean: Float[Tensor, "b c p h w"]


OnStep = Callable[[SamplingStep], None]


class ReadyLatents:
    """Stands where the stock pipeline expects an autoencoder; images come to it as scaled latents."""

    config = SimpleNamespace(
        scaling_factor=1.0,
        invert_scale_latents=False,
        block_out_channels=(0,) * 4,  # the pipeline counts them: three of them halve the sides
        temporal_compression_ratio=TEMPORAL_FACTOR,
    )

    def encode(self, latents: Float[Tensor, "b c 1 h w"]) -> SimpleNamespace:
        return SimpleNamespace(latents=latents)


class VideoSampler:
    """Samples clips' latents from a video model, given their first frame's latents and cameras."""

    def __init__(
        self, model: VideoModel, *, text_encoder: Any = None, tokenizer: Any = None
    ) -> None:
        mend_torchvision()
        from diffusers import CogVideoXImageToVideoPipeline
        from diffusers.video_processor import VideoProcessor

        self.model = model
        model.eval()  # an engine that wraps a model returns nothing here
        self.guided = GuidedTransformer(model)
        self.pipeline = CogVideoXImageToVideoPipeline(
            tokenizer, text_encoder, ReadyLatents(), self.guided, model.base.scheduler
        )
        # Images of this many channels pass as they are.
        self.pipeline.video_processor = VideoProcessor(
            vae_scale_factor=SPATIAL_FACTOR, vae_latent_channels=model.base.latent_channels
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def sample(
        self,
        image_latents: Float[Tensor, "b c 1 h w"],
        num_frames: int,
        generators: Sequence[torch.Generator],
        config: SamplingConfig,
        *,
        cameras: Cameras | None = None,
        text: Float[Tensor, "n e"] | None = None,
        negative_text: Float[Tensor, "n e"] | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c p h w"]:
        """Clips' latents, float32, on the device where the model runs.

        generators: one a clip, on the CPU, so that a clip's noise depends on its own alone.
        cameras: `[b t]` with t = num_frames, relative to the first frame, in scene units, at the frames' size.
        text: embedding of the prompt; None is the zero embedding.
        negative_text: of what to avoid, or of the empty prompt; without it text guidance is off.
        Raises UserError where steps, frames, cameras or texts do not fit each other or the model.
        """
        batch, _, _, height, width = image_latents.shape
        num_latent_frames(num_frames)
        frame_size = (height * SPATIAL_FACTOR, width * SPATIAL_FACTOR)
        self._check_cameras(cameras, num_frames, frame_size)
        if len(generators) != batch:
            raise UserError(f"{batch} images but {len(generators)} generators; expected one each")
        device = self.pipeline._execution_device
        prompt = self._embedding(text, batch, device)
        negative = None if negative_text is None else self._embedding(negative_text, batch, device)
        conditions = Conditions(
            None if cameras is None else cameras.to(device),
            negative,
            config.guidance,
        )
        self._set_scheduler(config)
        with self.guided.conditions(conditions):
            found = self.pipeline(
                image=image_latents.float()[:, :, 0],
                prompt_embeds=prompt,
                height=frame_size[0],
                width=frame_size[1],
                num_frames=num_frames,
                num_inference_steps=config.steps,
                guidance_scale=1.0,  # ours is inside the transformer
                generator=list(generators),
                output_type="latent",
                callback_on_step_end=self._reporter(config.steps, on_step),
            ).frames
        latents = found.transpose(1, 2)
        if not torch.isfinite(latents).all():
            raise UserError(
                "the video model gave NaN or infinite latents; lower the guidance, or use float32 or bfloat16"
            )
        return latents

    def encode_text(self, prompt: str) -> Float[Tensor, "n e"]:
        """A prompt's embedding; raises UserError where the pipeline has no text encoder."""
        if self.pipeline.text_encoder is None:
            raise UserError(
                f"the prompt {prompt!r} can't be used: this pipeline has no text encoder; leave the prompt out"
            )
        tokens = self.model.base.transformer.config.max_text_seq_length
        with torch.no_grad():
            return self.pipeline.encode_prompt(
                [prompt], do_classifier_free_guidance=False, max_sequence_length=tokens
            )[0][0]

    def to(self, device: torch.device | str) -> VideoSampler:
        """Moves the networks."""
        self.pipeline.to(device)
        return self

    def offload(self, mode: OffloadMode, device: torch.device | str | None = None) -> None:
        """Keeps the weights in the computer's memory, and on the accelerator only what is running.

        mode: "model" moves the text encoder and the video model in turn; "sequential" moves layer by layer: the
            least memory, and slow.
        device: the accelerator; None takes the one there is. Raises UserError where there is none.
        """
        if device is None and not torch.accelerator.is_available():
            raise UserError(
                f"offload {mode!r} keeps weights off an accelerator's memory, but this machine has none: leave"
                " it out, the models then run on the CPU"
            )
        if mode == "model":
            self.pipeline.enable_model_cpu_offload(device=device)
        else:
            self.pipeline.enable_sequential_cpu_offload(device=device)

    def _set_scheduler(self, config: SamplingConfig) -> None:
        from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

        settings = self.model.base.scheduler.config
        trained = settings.num_train_timesteps
        if trained % config.steps:
            divisors = [n for n in range(1, trained + 1) if trained % n == 0]
            below = max(n for n in divisors if n < config.steps)
            near = [str(below), *(str(n) for n in divisors if n > config.steps)][:2]
            raise UserError(
                f"steps is {config.steps}, which does not divide the {trained} noise levels of training; use"
                f" {' or '.join(near)}"
            )
        kinds = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
        self.pipeline.scheduler = kinds[config.scheduler].from_config(settings)

    def _embedding(
        self, text: Tensor | None, batch: int, device: torch.device
    ) -> Float[Tensor, "b n e"]:
        """A text for every clip, float32: the loop keeps latents in its dtype."""
        config = self.model.base.transformer.config
        expected = (config.max_text_seq_length, config.text_embed_dim)
        if text is None:
            return torch.zeros(batch, *expected, device=device)
        if tuple(text.shape) != expected:
            raise UserError(
                f"the text embedding is {tuple(text.shape)}; this video model takes {expected}"
                " (tokens, width)"
            )
        return text.to(device, torch.float32).expand(batch, -1, -1)

    def _reporter(self, total: int, on_step: OnStep | None) -> Any:
        if on_step is None:
            return None

        def report(
            pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            latest = self.guided.latest
            assert latest is not None
            signal = pipeline.scheduler.alphas_cumprod[int(timestep)]
            clean = signal.sqrt() * latest.noisy - (1 - signal).sqrt() * latest.velocity
            on_step(SamplingStep(step + 1, total, clean))
            return {}

        return report

    def _check_cameras(
        self, cameras: Cameras | None, num_frames: int, size: tuple[int, int]
    ) -> None:
        if cameras is None:
            return
        if cameras.num_views != num_frames:
            raise UserError(
                f"{cameras.num_views} cameras but {num_frames} frames; expected one each"
            )
        if (cameras.height, cameras.width) != size:
            raise UserError(
                f"cameras are for frames of {cameras.height}x{cameras.width}; the image latents are of"
                f" {size[0]}x{size[1]}"
            )

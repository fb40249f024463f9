"""Our camera-conditioned video model as a prior: what would a video along this path look like?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.errors import UserError
from data.cameras import Cameras, stack_cameras
from models.pipeline import ImageToScenePipeline
from models.priors.interface import ViewKind, check_finite, noise_of_velocity
from models.video.clip_chain import clip_cameras
from models.video.guidance import Conditions, GuidanceConfig, GuidedTransformer


class VideoPrior:
    """The pipeline's video model, given the input image as the first frame of every path, and no prompt.

    Distillation takes a gradient through the whole autoencoder, whose activations at CogVideoX's full size (one layer's
    of 49x480x720 in float32 take 8.7 GB) are more than a GPU of 80 GB holds: it is for smaller videos.
    """

    kind: ViewKind = "path"

    def __init__(
        self,
        pipeline: ImageToScenePipeline,
        image: Float[Tensor, "3 h w"],
        unit: float,
        guidance: GuidanceConfig,
    ) -> None:
        """unit: how many scene units make one of the model's, the median depth of the image.

        Raises UserError where the image is not of the size that the model makes.
        """
        if tuple(image.shape[1:]) != pipeline.frame_size:
            height, width = pipeline.frame_size
            raise UserError(
                f"the video prior makes frames of {height}x{width}, but the input is"
                f" {image.shape[1]}x{image.shape[2]}; use a pipeline of that size, or another --prior"
            )
        self.pipeline, self.unit = pipeline, unit
        self.guidance = guidance
        if pipeline.model.branches is None:
            raise UserError(
                "the video prior has no camera branches, so it knows nothing of the cameras; name some with"
                " --camera-branches, or use another --prior"
            )
        if isinstance(pipeline.autoencoder, nn.Module):
            pipeline.autoencoder.requires_grad_(
                False
            )  # gradients go through it, to the frames alone
        self.guided = GuidedTransformer(pipeline.model)
        self.signal = pipeline.model.base.scheduler.alphas_cumprod.double().cpu()
        text = pipeline.unprompted_text()
        self.text = pipeline.model.base.no_text(1) if text is None else text
        with torch.no_grad():
            self.image_latents = self.encode(image[None].to(pipeline.device))

    @property
    def num_views(self) -> int:
        return self.pipeline.clip_frames

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.pipeline.frame_size

    def encode(self, frames: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "1 c p h_ w_"]:
        return self.pipeline.autoencoder.encode(frames[None])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "1 c p h_ w_"]) -> Float[Tensor, "v 3 h w"]:
        return self.pipeline.autoencoder.decode(latents)[0]

    @torch.no_grad()
    def predict_noise(
        self, noisy: Float[Tensor, "1 c p h_ w_"], level: int, cameras: Cameras
    ) -> Float[Tensor, "1 c p h_ w_"]:
        """cameras: the first of them is the input view's."""
        path = clip_cameras(cameras, range(cameras.num_views), self.unit)
        image = torch.zeros_like(noisy)
        image[:, :, :1] = self.image_latents.to(noisy)
        conditions = Conditions(stack_cameras([path]).to(noisy.device), None, self.guidance)
        with self.guided.conditions(conditions):
            (velocity,) = self.guided(
                torch.cat([noisy, image], dim=1).transpose(1, 2),
                self.text.to(noisy),
                torch.full((1,), level, device=noisy.device),
            )
        signal = float(self.signal[level])
        predicted = noise_of_velocity(velocity.transpose(1, 2), noisy, signal)
        return check_finite(predicted, "video")

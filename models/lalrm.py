"""LaLRM, the latent large reconstruction model: video latents and Plücker rays to 3D Gaussians.

Wonderland (arXiv 2412.12091), sec. 3.3. Legend: b batch, c latent channels, d width, l tokens, t frames,
p latent frames (t = 4 (p - 1) + 1), h w frame size; Gaussians sit on the half-resolution grid (h/2, w/2) of
every frame, one each.

Deviations of ours are switches: the colour skip, the temporal alignment, the distance mapping, and a plane
sweep that compares frames along each ray.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from configs.errors import UserError
from configs.loader import Config
from data.cameras import Cameras
from models.attention import AttentionBackend, attention
from models.autoencoders.interface import SPATIAL_FACTOR, TEMPORAL_FACTOR, latent_shape
from models.gaussian_head import GaussianHead, GaussianHeadConfig
from models.gaussians import Gaussians
from models.plane_sweep import PlaneSweep, PlaneSweepConfig
from models.precision import full_precision
from models.pretrained import load_weights, read_config, save_pretrained
from models.ridge import fit_convolution
from models.weight_probes import Probes

KIND = "lalrm"


class LaLRMConfig(Config):
    """Sizes of the model. The defaults are the paper's; heads are not stated there (16 is usual).

    may_change: what a training run may set anew when it is resumed.
    """

    may_change: ClassVar = frozenset({"attention", "gradient_checkpointing"})

    latent_channels: int = Field(16, gt=0)
    width: int = Field(1024, gt=0)
    depth: int = Field(24, gt=0)
    heads: int = Field(16, gt=0)
    mlp_ratio: float = Field(4.0, gt=0)
    patch: int = Field(2, gt=0, description="latent pixels per token side")
    temporal_alignment: bool = Field(
        False,
        description="centre each token's rays and Gaussians on the four frames that its causal latent"
        " covers (4i-3..4i) instead of on frame 4i as the paper's padding does",
    )
    color_skip: bool = Field(
        False, description="add a linear map from the latents to the Gaussians' colour logits"
    )
    plane_sweep: PlaneSweepConfig | None = Field(
        None, description="correct the prediction by a plane sweep; needs color_skip"
    )
    moment_gain: float = Field(
        1.0, gt=0, description="factor on the rays' moments before the embedding (ours)"
    )
    head: GaussianHeadConfig = GaussianHeadConfig()
    latent_probes: Probes | None = Field(
        None, description="written by training: tells the autoencoder whose latents it reads"
    )
    attention: AttentionBackend = "auto"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _divides(self) -> LaLRMConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        if self.plane_sweep is not None and not self.color_skip:
            raise ValueError("plane_sweep compares the colours of the colour skip: set color_skip")
        return self


class LaLRM(nn.Module):
    """Predicts the Gaussians of a scene from a clip's latents and cameras in one pass."""

    def __init__(self, config: LaLRMConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        ray_patch = patch * SPATIAL_FACTOR
        aligned = config.temporal_alignment
        self.embed_latents = nn.Conv2d(config.latent_channels, width, patch, stride=patch)
        self.embed_rays = nn.Conv3d(
            6,
            width,
            (TEMPORAL_FACTOR, ray_patch, ray_patch),
            stride=(TEMPORAL_FACTOR, ray_patch, ray_patch),
            padding=(0 if aligned else 2, 0, 0),
        )
        self.norm_latents = nn.LayerNorm(width)
        self.norm_rays = nn.LayerNorm(width)
        self.fuse = nn.Linear(2 * width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(width)
        self.unpatchify = nn.ConvTranspose3d(
            width,
            GaussianHead.num_channels,
            (TEMPORAL_FACTOR + (0 if aligned else 1), ray_patch // 2, ray_patch // 2),
            stride=(TEMPORAL_FACTOR, ray_patch // 2, ray_patch // 2),
            padding=(0 if aligned else 2, 0, 0),
        )
        self.color_skip = ColorSkip(config.latent_channels) if config.color_skip else None
        self.plane_sweep = (
            PlaneSweep(config.plane_sweep, GaussianHead.num_channels)
            if config.plane_sweep is not None
            else None
        )
        self.head = GaussianHead(config.head)
        self._initialise()

    def _initialise(self) -> None:
        """Normal init of std 0.02, residual outputs scaled by depth; ours (unstated)."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("project.weight", "mlp_out.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.config.depth))
        for name, parameter in self.unpatchify.named_parameters():
            nn.init.normal_(parameter, std=0.01 if name == "weight" else 0.0)

    def forward(self, latents: Float[Tensor, "b c p h_ w_"], cameras: Cameras) -> Gaussians:
        """Gaussians `[b n]`, n = t * h/2 * w/2, ordered by frame, row, column.

        cameras: `[b t]`, relative to the first frame, in scene units, of the frame size (h, w). Raises
        UserError where latents and cameras do not fit each other or the model.
        """
        self._check(latents, cameras)
        raw = self.decode_tokens(self.encode_tokens(latents, cameras))
        if self.color_skip is not None:
            colors = self.color_skip(latents)
            raw = torch.cat([raw[..., :3] + colors, raw[..., 3:]], dim=-1)
            if self.plane_sweep is not None:
                raw = self.plane_sweep(raw, torch.sigmoid(colors), cameras)
        with full_precision(raw.device):
            return self.head(raw.float(), cameras)

    def encode_tokens(
        self, latents: Float[Tensor, "b c p h_ w_"], cameras: Cameras
    ) -> Float[Tensor, "b p gh gw d"]:
        """Trunk features, one token a patch of a latent frame."""
        batch, _, num_latents = latents.shape[:3]
        visual = self.embed_latents(latents.transpose(1, 2).flatten(0, 1))
        grid = visual.shape[-2:]
        visual_bld = visual.unflatten(0, (batch, num_latents)).permute(0, 1, 3, 4, 2).flatten(1, 3)

        with full_precision(latents.device):
            rays = cameras.plucker()
        rays = torch.cat([rays[:, :, :3] * self.config.moment_gain, rays[:, :, 3:]], dim=2)
        rays = rays.to(latents.dtype).transpose(1, 2)
        if self.config.temporal_alignment:
            lead = rays[:, :, :1].expand(-1, -1, TEMPORAL_FACTOR - 1, -1, -1)
            rays = torch.cat([lead, rays], dim=2)
        rays_bld = self.embed_rays(rays).flatten(2).transpose(1, 2)

        tokens = self.fuse(
            torch.cat([self.norm_latents(visual_bld), self.norm_rays(rays_bld)], dim=-1)
        )
        for block in self.blocks:
            if self.config.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm_out(tokens).unflatten(1, (num_latents, *grid))

    @property
    def checkpointed_blocks(self) -> list[nn.Module]:
        """The blocks that training computes again in the backward pass."""
        return list(self.blocks) if self.config.gradient_checkpointing else []

    def decode_tokens(
        self, tokens: Float[Tensor, "b p gh gw d"]
    ) -> Float[Tensor, "b t h_half w_half 12"]:
        """Raw head channels of every Gaussian, before activation."""
        raw = self.unpatchify(tokens.permute(0, 4, 1, 2, 3))
        if self.config.temporal_alignment:
            raw = raw[:, :, TEMPORAL_FACTOR - 1 :]
        return raw.permute(0, 2, 3, 4, 1)

    def _check(self, latents: Tensor, cameras: Cameras) -> None:
        expected = latent_shape(
            cameras.num_views, cameras.height, cameras.width, self.config.latent_channels
        )
        if tuple(latents.shape[1:]) != expected:
            raise UserError(
                f"latents are {tuple(latents.shape[1:])}, but {cameras.num_views} cameras of"
                f" {cameras.height}x{cameras.width} need {expected} (channels, frames, height, width)"
            )
        if expected[2] % self.config.patch or expected[3] % self.config.patch:
            multiple = self.config.patch * SPATIAL_FACTOR
            raise UserError(
                f"frames are {cameras.height}x{cameras.width}; both sides must divide by {multiple}"
                f" (patch {self.config.patch}): train at {cameras.height // multiple * multiple}x"
                f"{cameras.width // multiple * multiple} instead"
            )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes `config.json` and `model.safetensors`, the weights in `dtype`."""
        save_pretrained(self, self.config, Path(folder), KIND, dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LaLRM:
        """The model in `folder`, in eval mode; raises UserError where it is missing or does not fit."""
        model = cls(read_config(Path(folder), LaLRMConfig, KIND))
        load_weights(model, Path(folder))
        return model.eval()


class Block(nn.Module):
    """Pre-norm transformer block with query-key normalisation."""

    def __init__(self, config: LaLRMConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads, self.backend = config.heads, config.attention
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_queries = nn.LayerNorm(width // config.heads, bias=False)
        self.norm_keys = nn.LayerNorm(width // config.heads, bias=False)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        qkv = self.qkv(self.norm_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        queries = self.norm_queries(queries).to(values.dtype)
        keys = self.norm_keys(keys).to(values.dtype)
        mixed = attention(queries, keys, values, self.backend).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(mixed)
        return tokens + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(tokens))))


class ColorSkip(nn.Module):
    """Linear map from latents to the colour logits of the half-resolution Gaussians.

    Ours; the paper has none. The first latent holds one frame and the others four, so each has its own map;
    a 3x3 neighbourhood lets block edges agree.
    """

    cells = SPATIAL_FACTOR // 2

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        per_frame = 3 * self.cells**2
        self.first = nn.Conv2d(latent_channels, per_frame, 3, padding=1, padding_mode="replicate")
        self.rest = nn.Conv2d(
            latent_channels, TEMPORAL_FACTOR * per_frame, 3, padding=1, padding_mode="replicate"
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, latents: Float[Tensor, "b c p h_ w_"]
    ) -> Float[Tensor, "b t h_half w_half 3"]:
        batch = latents.shape[0]
        first = self._unfold(self.first(latents[:, :, 0]), 1)
        rest = self.rest(latents[:, :, 1:].transpose(1, 2).flatten(0, 1))
        frames = self._unfold(rest, TEMPORAL_FACTOR).unflatten(0, (batch, -1)).flatten(1, 2)
        return torch.cat([first, frames], dim=1)

    def fit(
        self, latents: Float[Tensor, "b c p h_ w_"], frames: Float[Tensor, "b t 3 h w"]
    ) -> None:
        """Sets the maps by ridge regression to the frames' half-resolution colours."""
        small = F.avg_pool2d(frames.flatten(0, 1), 2).clamp(0.02, 0.98).logit()
        cells = F.pixel_unshuffle(small, self.cells).unflatten(0, frames.shape[:2])
        fit_convolution(self.first, latents[:, :, 0], cells[:, 0])
        groups = cells[:, 1:].unflatten(1, (-1, TEMPORAL_FACTOR)).flatten(2, 3).flatten(0, 1)
        fit_convolution(self.rest, latents[:, :, 1:].transpose(1, 2).flatten(0, 1), groups)

    def _unfold(self, x: Tensor, num_frames: int) -> Tensor:
        """`[n, frames * 3 * cells^2, h, w]` -> `[n, frames, h * cells, w * cells, 3]`."""
        x = x.unflatten(1, (num_frames, 3 * self.cells**2))
        return F.pixel_shuffle(x, self.cells).movedim(2, -1)

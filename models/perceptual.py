"""LPIPS, with its backbone's weights from a file or from torchvision's download."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.errors import UserError
from models.published_weights import LPIPS_BACKBONES, file_name, read_state_dict
from models.torchvision_compat import mend_torchvision

Backbone = Literal["vgg", "alex"]
SMALLEST_SIDE: dict[Backbone, int] = {"alex": 31, "vgg": 16}
"""Smaller frames [px] leave nothing for the backbone's last layer."""

FRAMES_AT_ONCE = 4
"""So many frames that go through the network together are what is proposed where memory is short."""


class PerceptualLoss(nn.Module):
    """Mean LPIPS distance of two sets of frames; differentiable, its own weights frozen."""

    def __init__(
        self,
        weights: Path | None = None,
        backbone: Backbone = "vgg",
        *,
        at_once: int | None = None,
        network: nn.Module | None = None,
    ) -> None:
        """at_once: frames that go through the network together; with it their activations are not kept but
            computed again in the backward pass. None keeps those of all frames.
        network: instead of the one of `weights` and `backbone`, as `load_lpips` gives it.
        """
        super().__init__()
        self.at_once = at_once
        self.network = load_lpips(backbone, weights) if network is None else network

    def forward(
        self, frames: Float[Tensor, "*batch 3 h w"], target: Float[Tensor, "*batch 3 h w"]
    ) -> Float[Tensor, ""]:
        height, width = frames.shape[-2:]
        first, second = (x.reshape(-1, 3, height, width) for x in (frames, target))
        if self.at_once is None:
            return self._distances(first, second).mean()
        groups = zip(first.split(self.at_once), second.split(self.at_once), strict=True)
        parts = [checkpoint(self._distances, *group, use_reentrant=False) for group in groups]
        return torch.cat(parts).mean()

    def _distances(
        self, frames: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n 1 1 1"]:
        return self.network(frames, target, normalize=True)


def load_lpips(backbone: Backbone, weights: Path | None = None) -> nn.Module:
    """LPIPS v0.1 in eval mode, frozen. Takes frames in [0, 1] when called with `normalize=True`.

    weights: the torchvision backbone's state dict (.pth or .safetensors); None takes torchvision's cached
    or downloaded file. Raises UserError where lpips is not installed or the weights cannot be had.
    """
    lpips = _import_lpips()
    state = _backbone_state(backbone, weights)
    # The linear heads ship inside the package; only the backbone is a download.
    network = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
    _load_backbone(network.net, state)
    return network.eval().requires_grad_(False)


def outline_lpips(backbone: Backbone) -> nn.Module:
    """LPIPS on the meta device: no weights are read. Raises UserError where lpips is not installed."""
    lpips = _import_lpips()
    with torch.device("meta"):
        network = lpips.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False)
    return network.eval().requires_grad_(False)


def _import_lpips() -> ModuleType:
    if problem := lpips_problem():
        raise UserError(problem)
    import lpips

    return lpips


def lpips_problem() -> str | None:
    """Why the packages that LPIPS needs do not load here, and the cure; None where they do."""
    try:
        mend_torchvision()
        import lpips  # noqa: F401
    except ImportError as error:
        return (
            f"LPIPS needs packages that do not load ({error}):"
            " STILLSCAPE_EXTRAS=perceptual,dev ./launch.sh setup"
        )
    return None


def cached_backbone(backbone: Backbone) -> Path | None:
    """torchvision's cached file of the backbone, if it is there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name(LPIPS_BACKBONES[backbone])
    return path if path.is_file() else None


def _backbone_state(backbone: Backbone, weights: Path | None) -> dict[str, Tensor]:
    path = weights or cached_backbone(backbone)
    if path is None:
        try:
            return torch.hub.load_state_dict_from_url(
                LPIPS_BACKBONES[backbone], check_hash=True, weights_only=True
            )
        except OSError as error:
            raise UserError(
                f"LPIPS needs the {backbone} weights and they cannot be downloaded ({error}); fetch"
                f" {LPIPS_BACKBONES[backbone]} elsewhere and give its path"
            ) from error
    return read_state_dict(path)


def _load_backbone(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads torchvision's `features.N.*` into lpips' `sliceK.N.*` of the same layer numbers."""
    for name, parameter in network.named_parameters():
        layer = name.split(".", 1)[1]
        source = state.get(f"features.{layer}")
        if source is None or source.shape != parameter.shape:
            raise UserError(f"the LPIPS backbone's weights have no fitting 'features.{layer}'")
        parameter.data.copy_(source)

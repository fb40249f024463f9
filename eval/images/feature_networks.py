"""The networks behind FID, KID and FVD: frames in, features out.

FRAMES has a row of features for each frame (Inception v3), VIDEO one for the clip (I3D). Both see the frames as 8-bit
pictures, so that frames in memory and the same read from a file score alike.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.jit import optimized_execution  # type: ignore[attr-defined]

import models.torchvision_compat  # noqa: F401  mends torchvision before torchmetrics imports it
from configs.errors import UserError
from eval.images.metric_weights import WeightsFile
from eval.images.metrics import full_precision
from models.published_weights import read_state_dict

FRAMES, VIDEO = "frames", "video"
FRAMES_AT_ONCE = 16
OWN_PREPROCESSING = ("rescale", "resize", "return_features")
"""What the forward of StyleGAN-V's I3D takes beside the videos."""

ValueRange = Literal["-1..1", "0..1", "0..255"]
InceptionLayer = Literal[64, 192, 768, 2048]


@runtime_checkable
class FeatureNetwork(Protocol):
    """Anything that turns a clip into rows of features.

    label: names the weights and whatever else the features depend on; features of different labels are never put
    together.
    """

    label: str

    def features(self, frames: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "n d"]:
        """Features on the CPU, a row for each frame or one for the clip; frames in [0, 1].

        Raises UserError where the network cannot take these frames.
        """
        ...


class InceptionNetwork:
    """Inception v3 as torchmetrics runs it for FID and KID: frames resized to 299x299, mean-pooled features.

    layer: width of the features; 2048 is that of FID. antialias: torchmetrics' way of resizing, and its default; the
    original one has none and matters for frames larger than 299 px. Raises UserError where torch-fidelity is not
    installed or the file does not hold the network.
    """

    def __init__(
        self,
        weights: WeightsFile,
        layer: InceptionLayer = 2048,
        antialias: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.label = f"inception {weights.label}, layer {layer}" + (
            "" if antialias else ", not antialiased"
        )
        self.device = torch.device(device)
        self.network = _load_inception(weights.path, layer, antialias).to(self.device)

    def features(self, frames: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t d"]:
        """One row a frame."""
        with torch.no_grad(), full_precision():
            parts = [
                self.network(part.to(self.device)).float().cpu()
                for part in as_bytes(frames).split(FRAMES_AT_ONCE)
            ]
        return torch.cat(parts)


class VideoNetwork:
    """A TorchScript module `[b 3 t h w]` -> `[b d]`, as FVD is commonly computed with.

    A module whose forward takes `rescale`, `resize` and `return_features`, as StyleGAN-V's I3D does, gets values
    0 to 255 and prepares the frames itself. Any other gets frames resized to `size` x `size` (bilinear, the
    aspect not kept; None: as they are) with values in `values`.

    TorchScript files hold code that runs: use one from where you would take code. Raises UserError where the file is
    not TorchScript.
    """

    def __init__(
        self,
        weights: WeightsFile,
        size: int | None = 224,
        values: ValueRange = "-1..1",
        device: torch.device | str = "cpu",
    ) -> None:
        self.path, self.size, self.values = weights.path, size, values
        self.device = torch.device(device)
        self.network = _load_torchscript(weights.path, self.device)
        forward: Any = self.network.forward
        arguments = {argument.name for argument in forward.schema.arguments}
        self.prepares_itself = arguments.issuperset(OWN_PREPROCESSING)
        self.label = f"video network {weights.label}" + (
            "" if self.prepares_itself else f", frames {size or 'unresized'}, values {values}"
        )

    def features(self, frames: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "1 d"]:
        """The clip's one row; raises UserError where the network fails on it (too few frames, for one)."""
        video = as_bytes(frames).to(self.device).float()
        options: dict[str, bool] = {}
        if self.prepares_itself:
            options = dict.fromkeys(OWN_PREPROCESSING, True)
        else:
            video = self._prepared(video)
        batch = video.transpose(0, 1)[None].contiguous()
        try:
            # Optimised, TorchScript fuses after some calls, and the first clips would differ from the rest.
            with torch.no_grad(), full_precision(), optimized_execution(False):
                features = self.network(batch, **options)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            raise UserError(
                f"{self.path} fails on a video of {_size(frames)}: {_last_line(error)}"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
            found = f"{tuple(features.shape)}" if isinstance(features, Tensor) else type(features)
            raise UserError(
                f"{self.path} gives {found} for a video of {_size(frames)}; expected one row of features (1, d)"
            )
        return features.float().cpu()

    def _prepared(self, video: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 g v"]:
        if self.size is not None:
            video = torch.nn.functional.interpolate(
                video, size=(self.size, self.size), mode="bilinear", align_corners=False
            )
        if self.values == "0..255":
            return video
        return video / 255 if self.values == "0..1" else video / 127.5 - 1


def inception_problem() -> str | None:
    """Why the package that has Inception does not load here, and the cure; None where it does."""
    try:
        import torch_fidelity  # noqa: F401
    except ImportError as error:
        return (
            f"FID and KID need torch-fidelity, which does not load ({error}):"
            " STILLSCAPE_EXTRAS=perceptual,dev ./launch.sh setup"
        )
    return None


def as_bytes(frames: Float[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 3 h w"]:
    """Frames in [0, 1] as 8-bit pictures, to the nearest value."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def _load_inception(path: Path, layer: int, antialias: bool) -> torch.nn.Module:
    if problem := inception_problem():
        raise UserError(problem)
    from torchmetrics.image.fid import NoTrainInceptionV3

    state = read_state_dict(path)
    with tempfile.TemporaryDirectory() as folder:
        # The library unpickles the file it is given: so it gets one that we wrote.
        copy = Path(folder) / "inception.pth"
        torch.save(state, copy)
        try:
            return NoTrainInceptionV3("inception-v3-compat", [str(layer)], str(copy), antialias)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not hold the Inception v3 of FID ({_last_line(error)})"
            ) from error


def _load_torchscript(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            # The networks that FVD is computed with exist as TorchScript alone.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} is not a TorchScript module ({_last_line(error)}); FVD takes one that maps [b 3 t h w] to"
            " [b d]"
        ) from error


def _size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[-2]}x{frames.shape[-1]}"


def _last_line(error: Exception) -> str:
    """The line of a long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

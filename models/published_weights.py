"""Weights that others publish and our measures need: their addresses, and whether a file is what was published.

Light on purpose: whoever only wants to know what is missing does not wait for torch.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LPIPS_BACKBONES = {
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
}
"""torchvision's ImageNet weights, by the backbone's name in the lpips package."""

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
"""Inception v3 of the original FID, as torch-fidelity converted it; torchmetrics takes the same file."""

I3D = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"
"""I3D of the original FVD as TorchScript, as StyleGAN-V publishes it and most FVDs since are computed with."""
I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"


def file_name(address: str) -> str:
    """The name under which torch keeps what it downloaded from `address`."""
    return address.partition("?")[0].rpartition("/")[2]


def published_sha256(address: str) -> str:
    """The published file's sha256 in hex, or its first digits, which torch's file names end in."""
    if address == I3D:
        return I3D_SHA256
    found = re.search(r"-([0-9a-f]{8,64})\.", file_name(address))
    assert found is not None, address
    return found[1]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file (.pth or .safetensors) by name; nothing else in it is ever unpickled.

    Raises UserError where it is missing, damaged, or holds anything but tensors by name.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path} is missing; expected a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # `weights_only` reads tensors alone and refuses pickled code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a readable weights file ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path} is not a readable weights file: it holds no tensors by name")
    return state

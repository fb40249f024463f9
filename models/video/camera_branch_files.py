"""Camera branches on disk: a small folder of their own, beside any copy of the base they were trained on.

`model.safetensors` holds encoders, fusion and control blocks; the low-rank updates are in diffusers' own LoRA
file, so that `transformer.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors")` takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from configs.loader import Config
from models.pretrained import load_weights, read_config, save_pretrained, save_weights
from models.video.base_identity import BaseIdentity
from models.video.camera_branches import CameraBranches, CameraBranchesConfig

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

KIND = "camera_branches"
LORA_FILE = "pytorch_lora_weights.safetensors"


class StoredBranches(Config):
    """The content of `config.json`."""

    branches: CameraBranchesConfig
    base: BaseIdentity


def save_branches(
    branches: CameraBranches, folder: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Writes the branches, attached or not, to `folder`; `dtype` is that of the files.

    What identifies the base is taken from the one they are attached to, as it is now.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    attached = branches.transformer
    identity = branches.identity if attached is None else BaseIdentity.of(attached)
    if branches.lora is not None:
        save_weights(branches.lora, folder / LORA_FILE, dtype)
    stored = StoredBranches(branches=branches.config, base=identity)
    save_pretrained(_all_but_lora(branches), stored, folder, KIND, dtype)


def load_branches(
    folder: str | Path,
    transformer: CogVideoXTransformer3DModel,
    dtype: torch.dtype = torch.float32,
) -> CameraBranches:
    """The branches in `folder`, in eval mode, in `dtype`, on the base's device, not yet attached.

    transformer: the base that they will steer. Raises UserError where files are missing or damaged, or the
    branches were trained on another base.
    """
    folder = Path(folder)
    stored = read_config(folder, StoredBranches, KIND)
    stored.base.check(transformer, f"the camera branches in {folder}")
    branches = CameraBranches(stored.branches, transformer)
    branches.identity = stored.base
    load_weights(_all_but_lora(branches), folder)
    if branches.lora is not None:
        load_weights(branches.lora, folder, LORA_FILE)
    return branches.to(transformer.device, dtype).eval()


def _all_but_lora(branches: CameraBranches) -> nn.ModuleDict:
    parts = {"control": branches.control, "fusion": branches.fusion}
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

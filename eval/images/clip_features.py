"""The features of each clip, kept as a file of its own, so that a set metric survives an interrupted run.

A set metric is one number over all clips and cannot be taken apart into lines; what it is computed from can. Files
are the same whichever rank writes them and however often a run was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.errors import UserError
from data.durable_files import disk_errors_explained, write_durably
from eval.images.feature_networks import FeatureNetwork

GENERATED, REFERENCE = "generated", "reference"
ABOUT = "about"
"""The one key of a file's metadata: JSON with `networks`, `missing` and `sha256`."""
CURE = "score the clips again into another folder, or with restart=true"


@dataclass(frozen=True)
class ClipFeatures:
    """The features of one clip and of its reference, by the network's name.

    missing: why a network has none.
    """

    features: dict[str, tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]]
    missing: dict[str, str]


def extract_features(
    frames: Float[Tensor, "t 3 h w"],
    reference: Float[Tensor, "t 3 h w"],
    networks: Mapping[str, FeatureNetwork],
) -> ClipFeatures:
    """What each network makes of the frames and of the reference; a network that cannot take them is missing."""
    found, missing = {}, {}
    for name, network in networks.items():
        try:
            rows = network.features(frames), network.features(reference)
        except UserError as error:
            missing[name] = str(error)
            continue
        if all(bool(torch.isfinite(row).all()) for row in rows):
            found[name] = rows
        else:
            missing[name] = f"the features of {network.label} are not finite"
    return ClipFeatures(found, missing)


class FeatureFolder:
    """A folder with a file of features a clip.

    labels: of the networks, by name (`FeatureNetwork.label`); a file of other networks is refused.
    """

    def __init__(self, folder: Path, labels: Mapping[str, str]) -> None:
        self.folder = folder
        self.labels = dict(labels)

    def path(self, clip: int) -> Path:
        """Where a clip's features are."""
        return self.folder / f"{clip:06d}.safetensors"

    def write(self, clip: int, features: ClipFeatures) -> None:
        """Keeps a clip's features, whole or not at all; raises UserError where the disk does not take them."""
        tensors = {
            f"{name}.{side}": rows.float().contiguous()
            for name, pair in features.features.items()
            for side, rows in zip((GENERATED, REFERENCE), pair, strict=True)
        }
        about = {
            "networks": self.labels,
            "missing": features.missing,
            "sha256": _sha256(tensors, features.missing),
        }
        content = safetensors.torch.save(tensors, {ABOUT: json.dumps(about)})
        with disk_errors_explained(self.folder, len(content)):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.path(clip), content)

    def read(self, clip: int) -> ClipFeatures:
        """A clip's features; raises UserError where the file is missing, damaged, or of other networks."""
        path = self.path(clip)
        if not path.is_file():
            raise UserError(f"{path} is missing: clip {clip} has scores but no features; {CURE}")
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, Any] = json.loads(file.metadata()[ABOUT])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            networks, missing, digest = about["networks"], about["missing"], about["sha256"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); {CURE}") from error
        if digest != _sha256(tensors, missing):
            raise UserError(f"{path} is damaged (its content does not fit its checksum); {CURE}")
        if networks != self.labels:
            raise UserError(
                f"{path} holds features of other networks ({_described(networks)}; now"
                f" {_described(self.labels)}); {CURE}"
            )
        names = [name for name in self.labels if name not in missing]
        features = {
            name: (tensors[f"{name}.{GENERATED}"], tensors[f"{name}.{REFERENCE}"]) for name in names
        }
        return ClipFeatures(features, missing)


def _sha256(tensors: Mapping[str, Tensor], missing: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(missing, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _described(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {label}" for name, label in labels.items()) or "none"

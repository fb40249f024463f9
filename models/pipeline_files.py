"""A pipeline on disk: a folder with `pipeline.json`, which names the folders of its parts and its defaults.

    {"kind": "image_to_scene",
     "parts": {"autoencoder": "autoencoder", "video_base": "video_base", "camera_branches": "video_camera",
               "lalrm": "lalrm"},
     "sampling": {"steps": 25}}

A part's folder is relative to that of `pipeline.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from configs.errors import UserError
from configs.loader import Config
from data.durable_files import write_durably
from models.autoencoders.files import load_autoencoder
from models.autoencoders.interface import VideoAutoencoder
from models.lalrm import LaLRM
from models.video.base import load_base
from models.video.camera_branch_files import load_branches
from models.video.model import VideoModel
from models.video.sampling import SamplingConfig
from models.video.text_encoder import load_text_encoder

PIPELINE_FILE = "pipeline.json"
RECIPES = {
    "autoencoder": "configs/tiny/linear_codec.yaml",
    "video_base": "configs/tiny/video_base.yaml",
    "camera_branches": "configs/tiny/video_camera.yaml",
    "lalrm": "configs/tiny/reconstruction.yaml",
}
"""What trains each part at the tiny scale."""


class PartNames(Config):
    """Folders of the parts, relative to that of `pipeline.json`."""

    autoencoder: str
    video_base: str
    camera_branches: str | None = None
    lalrm: str
    text_encoder: str | None = None


class PipelineFile(Config):
    """The content of `pipeline.json`."""

    kind: Literal["image_to_scene"] = "image_to_scene"
    parts: PartNames
    sampling: SamplingConfig = SamplingConfig()


@dataclass(frozen=True)
class PartFolders:
    """Where each part is; None where there is none, or none was named yet.

    text_encoder: a folder with `tokenizer/` and `text_encoder/` in it, as a CogVideoX snapshot.
    """

    autoencoder: Path | None = None
    video_base: Path | None = None
    camera_branches: Path | None = None
    lalrm: Path | None = None
    text_encoder: Path | None = None

    def replaced(self, others: PartFolders) -> PartFolders:
        """These folders, with those that `others` names in their place."""
        return replace(self, **{name: folder for name, folder in vars(others).items() if folder})


@dataclass(frozen=True)
class Parts:
    """A pipeline's networks."""

    autoencoder: VideoAutoencoder
    model: VideoModel
    lalrm: LaLRM
    tokenizer: Any = None
    text_encoder: Any = None


def read_pipeline_file(folder: Path) -> tuple[PartFolders, SamplingConfig]:
    """Where the parts of the pipeline in `folder` are, and its defaults; raises UserError."""
    path = folder / PIPELINE_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing; expected the folder of a pipeline, or name its parts one by one"
        )
    try:
        content = PipelineFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: key {where!r}: {first['msg']}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from error
    named = {name: folder / part for name, part in content.parts.model_dump().items() if part}
    return PartFolders(**named), content.sampling


def write_pipeline_file(folder: Path, parts: PartNames, sampling: SamplingConfig) -> None:
    """Writes `pipeline.json`, whole or not at all."""
    content = PipelineFile(parts=parts, sampling=sampling).model_dump(mode="json")
    write_durably(folder / PIPELINE_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_parts(folders: PartFolders, dtype: torch.dtype = torch.float32) -> Parts:
    """The networks in their folders, on the CPU; the video model and its text encoder in `dtype`.

    Raises UserError that names what is missing or does not load.
    """
    autoencoder = _existing("autoencoder", folders.autoencoder)
    lalrm = _existing("lalrm", folders.lalrm)
    base = load_base(_existing("video_base", folders.video_base), dtype)
    branches, tokenizer, text_encoder = None, None, None
    if folders.camera_branches is not None:
        folder = _existing("camera_branches", folders.camera_branches)
        branches = load_branches(folder, base.transformer, dtype)
    if folders.text_encoder is not None:
        folder = _existing("text_encoder", folders.text_encoder)
        tokenizer, text_encoder = load_text_encoder(folder, dtype)
    return Parts(
        load_autoencoder(autoencoder),
        VideoModel(base, branches, train_base=False),
        LaLRM.from_pretrained(lalrm),
        tokenizer,
        text_encoder,
    )


def _existing(name: str, folder: Path | None) -> Path:
    if folder is None:
        raise UserError(f"the pipeline has no {name}; name the folder of its weights")
    if folder.is_dir():
        return folder
    recipe = RECIPES.get(name)
    cure = f", or train it: ./launch.sh train {recipe}" if recipe else ""
    raise UserError(f"{folder}: no such folder; it should hold the {name}: name another{cure}")

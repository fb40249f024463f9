"""Weights on disk: a folder with `config.json` and `model.safetensors`. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from configs.errors import UserError
from configs.loader import Config

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

ConfigType = TypeVar("ConfigType", bound=Config)


def save_pretrained(
    model: nn.Module,
    config: Config,
    folder: Path,
    kind: str,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the model's weights and configuration to `folder`, each file by rename, so never half.

    `kind` names the class, so that a folder of one model is not taken for another's. `dtype` is that of
    the file; loading casts to the model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS_FILE, dtype)
    described = {"kind": kind, **config.model_dump(mode="json")}
    settings = folder / f"{CONFIG_FILE}.tmp"
    settings.write_text(json.dumps(described, indent=2) + "\n")
    os.replace(settings, folder / CONFIG_FILE)


def save_weights(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the model's weights alone, by rename; `dtype` is that of the file."""
    state = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(save(state))
    os.replace(unfinished, path)


def read_kind(folder: Path) -> str:
    """The `kind` of the model in `folder`; raises UserError where there is none."""
    return _read_settings(folder)["kind"]


def read_config(folder: Path, schema: type[ConfigType], kind: str) -> ConfigType:
    """The configuration of the model in `folder`, checked against `schema` and `kind`."""
    settings = _read_settings(folder)
    found = settings.pop("kind")
    if found != kind:
        raise UserError(f"{folder} holds weights of a {found!r} model; expected {kind!r}")
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{folder / CONFIG_FILE}: key {where!r}: {first['msg']}; these weights were saved by"
            " another version of this model: export them again"
        ) from error


def load_weights(model: nn.Module, folder: Path, file: str = WEIGHTS_FILE) -> None:
    """Loads `folder`'s weights into `model`; every name and shape must match, or it raises UserError."""
    path = folder / file
    if not path.is_file():
        raise UserError(f"{path} is missing; expected the weights that belong to {CONFIG_FILE}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore or export it again") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        raise UserError(f"{path} does not fit the model: {_first_difference(expected, found)}")
    if bad := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise UserError(
            f"{path} has NaN or infinite values in {bad[0]!r}; restore or export it again"
        )
    model.load_state_dict(state)


def weights_digest(folder: Path) -> str:
    """16 hex digits that stand for all weights and settings in a folder and in those below it.

    Raises UserError where there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no weights (*.safetensors)")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing; expected a weights folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(settings, dict) or "kind" not in settings:
        raise UserError(f"{path} has no 'kind'; it is not one of our weights folders")
    return settings


def _first_difference(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]
) -> str:
    if missing := sorted(expected.keys() - found.keys()):
        return f"{len(missing)} tensors are missing, the first is {missing[0]!r}"
    if unknown := sorted(found.keys() - expected.keys()):
        return f"{len(unknown)} tensors are unknown, the first is {unknown[0]!r}"
    name = next(name for name in expected if expected[name] != found[name])
    return f"{name!r} has shape {found[name]}, expected {expected[name]}"

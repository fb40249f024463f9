"""Reading JSON that people and other programs wrote: each mistake is one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError


def read_json_object(path: Path, expected: str) -> dict[str, Any]:
    """The content of a JSON file; raises UserError that says `expected` where it is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON text file") from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {expected}")
    return content


def number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number, or None where the key is missing; raises UserError for anything else."""
    value = values.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < sys.float_info.max:
        raise UserError(f"{where}: '{key}' is {value!r}, expected a number")
    return float(value)


def matrix(rows: Any, shape: tuple[int, int], what: str) -> Float[Tensor, "rows columns"]:
    """Nested lists of numbers as a float64 matrix; raises UserError that names `what`."""
    size = "x".join(map(str, shape))
    try:
        found = torch.tensor(rows, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{what} is not a {size} list of numbers") from error
    if found.shape != shape:
        raise UserError(f"{what} has shape {list(found.shape)}, expected {size}")
    return found


def transform_matrix(rows: Any, what: str) -> Float[Tensor, "4 4"]:
    """A transform of 4 or 3 rows as a float64 4x4 matrix; raises UserError that names `what`."""
    if isinstance(rows, list) and len(rows) == 3:
        rows = [*rows, [0, 0, 0, 1]]
    return matrix(rows, (4, 4), what)

"""Makes `import torchvision` work beside a CPU build of torch. Import this before torchvision's users.

The package index has torchvision for CUDA only. Beside a CPU torch its compiled operators don't
load, and the import then fails on registering derivatives for two that nobody has declared. Once
their schemas are declared the import works; everything in Python does too (backbones, transforms),
and only those two operators, non-maximum suppression of boxes, can't be called.

    import models.torchvision_compat  # noqa: F401, before diffusers, torchmetrics or lpips
"""

from __future__ import annotations

import importlib
from typing import Literal

import torch

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: torch.library.Library | None = None  # the declarations last as long as this object


def mend_torchvision() -> Literal["absent", "native", "mended"]:
    """How torchvision came to be importable: as it is, or with two schemas declared by us.

    "absent" where it isn't installed. Any other failure of its import is raised as it is.
    """
    global _declared
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        return "absent"
    except RuntimeError as error:
        if _declared is not None or _MISSING_OPERATOR not in str(error):
            raise
        _declared = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _declared.define(schema)
        importlib.import_module("torchvision")
    return "native" if _declared is None else "mended"


TORCHVISION = mend_torchvision()

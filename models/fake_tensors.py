"""Tensors that have a shape and a dtype and nothing in them: those on the meta device, and fake ones.

Models of any size are built of them, and stepped through, without memory or arithmetic.
"""

from __future__ import annotations

from torch import Tensor


def has_values(tensor: Tensor) -> bool:
    """Whether anything can be read from `tensor`."""
    # By name, since importing the class takes a second, and models are seldom fake.
    return tensor.device.type != "meta" and type(tensor.data).__name__ != "FakeTensor"

"""What a measurement gives: a number, or the reason why there is none, and how both are written to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIGITS = 4
"""Decimals that are kept: more would differ between machines and say nothing."""
KEY = "not_available"


@dataclass(frozen=True)
class NotAvailable:
    """Stands where a number cannot be had.

    why: a sentence that says what is missing and, where the user can get it, how.
    """

    why: str


Measured = float | NotAvailable


def to_json(value: Any, digits: int = DIGITS) -> Any:
    """The value as plain JSON: floats rounded to `digits`, a NotAvailable as `{"not_available": why}`.

    Goes through lists, tuples and dictionaries. Raises ValueError for NaN and infinity, which JSON does not
    have and which are no measurements: what failed is a NotAvailable.
    """
    if isinstance(value, NotAvailable):
        return {KEY: value.why}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a measurement; give NotAvailable and the reason")
        return round(value, digits) + 0.0  # no minus at zero
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): to_json(entry, digits) for name, entry in value.items()}
    if isinstance(value, Sequence):
        return [to_json(entry, digits) for entry in value]
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")


def from_json(value: Any) -> Any:
    """What `to_json` wrote, with NotAvailable in its place again, for who reads lines back."""
    if isinstance(value, dict):
        if set(value) == {KEY}:
            return NotAvailable(value[KEY])
        return {name: from_json(entry) for name, entry in value.items()}
    return [from_json(entry) for entry in value] if isinstance(value, list) else value


def mean(values: Sequence[Measured]) -> Measured:
    """The mean of the numbers among the values; where there is none, the first reason why.

    What is not available never counts as a number: report beside the mean of how many it is, which
    `num_available` tells.
    """
    numbers = [value for value in values if not isinstance(value, NotAvailable)]
    if numbers:
        return math.fsum(numbers) / len(numbers)
    reasons = [value for value in values if isinstance(value, NotAvailable)]
    return reasons[0] if reasons else NotAvailable("there is nothing to take a mean of")


def num_available(values: Sequence[Measured]) -> int:
    """How many of the values are numbers."""
    return sum(not isinstance(value, NotAvailable) for value in values)

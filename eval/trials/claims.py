"""What a trial claims, what it found, and whether that holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""A row of a trial's tables, plain JSON."""


def verdict(claim: str, found: str, holds: bool | None) -> Row:
    """A claim, what was found, and whether it holds; None where nothing was measured."""
    return {"claim": claim, "found": found, "holds": holds}


def unmeasured(claim: str) -> Row:
    """A claim that nothing was tried for."""
    return verdict(claim, "not tried", None)


def print_claims(claims: Sequence[Row]) -> None:
    """The claims on the terminal."""
    for row in claims:
        word = {True: "holds", False: "FAILS", None: "not measured"}[row["holds"]]
        print(f"{word:>12}  {row['claim']}: {row['found']}")

"""The weights that a learned measure is computed with: where they are, whether they are the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import UserError
from eval.scores.measured import NotAvailable
from models.published_weights import file_name, file_sha256, published_sha256


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    published: its content is what everybody's numbers are computed with. Others are allowed where the user names
        them, and make numbers that compare with nobody's.
    """

    path: Path
    sha256: str
    published: bool

    @property
    def label(self) -> str:
        """The start of the hash, with a word where the weights are not the published ones."""
        return self.sha256[:16] + ("" if self.published else " (not the published weights)")


def find_weights(
    address: str, given: Path | None, measure: str, option: str
) -> WeightsFile | NotAvailable:
    """The weights of `measure` in the file `given`, or else in torch's cache. Never downloads.

    address: where they are published, of `models.published_weights`. option: the recipe's key for `given`.
    NotAvailable where there are none, or where those in the cache are damaged. Raises UserError where `given` is
    not a file.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name(address)
    path = given or cached
    if not path.is_file():
        if given is not None:
            raise UserError(f"{option}: {given}: no such file; expected the weights of {measure}")
        return NotAvailable(
            f"the weights of {measure} are not here: put {address} at {cached}, or name the file with {option}=PATH"
        )
    found, expected = file_sha256(path), published_sha256(address)
    published = found.startswith(expected)
    if given is None and not published:
        return NotAvailable(
            f"{measure}: {path} is damaged (its sha256 begins with {found[:8]}, expected {expected[:8]}); fetch"
            f" {address} again"
        )
    return WeightsFile(path, found, published)

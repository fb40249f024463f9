"""The files of an unfinished shard folder: how its shards are made, and which of them are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.errors import UserError
from configs.loader import Config
from data.shard_index import IndexContent, SampleFormat, ShardRecord


class PartRecord(Config):
    """A finished part.

    shard: None where the part gave no sample. height, width: of its clips; 0 for tensors.
    notes: what its maker has to say of it.
    """

    shard: ShardRecord | None
    height: int
    width: int
    notes: tuple[dict[str, Any], ...] = ()

    @property
    def num_samples(self) -> int:
        return 0 if self.shard is None else self.shard.num_clips

    def to_json(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


class Undertaking(Config):
    """What `unfinished.json` holds.

    recipe, format: of the index to be. clips_per_shard: None where that varies.
    kept: an index that was finished, and is being added to.
    """

    version: int
    recipe: dict[str, Any]
    format: SampleFormat | None
    clips_per_shard: int | None
    kept: IndexContent | None = None

    @staticmethod
    def of_index(content: IndexContent) -> Undertaking:
        """How the shards of a finished folder were made."""
        shards = content.shards
        return Undertaking(
            version=content.version,
            recipe=content.recipe,
            format=content.format,
            clips_per_shard=shards[0].num_clips if len(shards) > 1 else None,
        )

    def check_same(self, there: Undertaking, path: Path) -> None:
        """Raises UserError where shards that are `there`, as `path` says, were made otherwise."""
        found, wanted = there._settings(), self._settings()
        if None in (there.clips_per_shard, self.clips_per_shard):
            del found["clips per shard"], wanted["clips per shard"]
        differences = [
            f"{key} was {found.get(key)}, now it is {wanted.get(key)}"
            for key in dict.fromkeys([*found, *wanted])
            if found.get(key) != wanted.get(key)
        ]
        if differences:
            raise UserError(
                f"{path}: its shards were made otherwise: {'; '.join(differences)}; resume with the same settings,"
                " or use --overwrite"
            )

    def to_json(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()

    def _settings(self) -> dict[str, Any]:
        """What must be the same to go on, by names that mean something to the user."""
        return {**self.recipe, "format": self.format, "clips per shard": self.clips_per_shard}


def read_undertaking(path: Path) -> Undertaking:
    """The content of `unfinished.json`; UserError where it is not one of ours."""
    try:
        return Undertaking.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: not written by this version of `./launch.sh prepare`; use --overwrite to make the shards"
            " again"
        ) from error


def read_record(path: Path) -> PartRecord | None:
    """The record of a part; None where there is none, UserError where it is not one of ours."""
    try:
        return PartRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(
            f"{path}: not the record of a shard; remove it to make the shard again"
        ) from error

"""Clips and the tensors that belong to them, made together and written as one."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from data.clips import Clip
from data.shard_index import (
    SampleFormat,
    ShardIndex,
    index_file,
    read_content,
    unfinished_file,
)
from data.shard_writing import Existing, ShardWriter


class PairedWriter:
    """Writes a shard folder and one set of tensors of its clips side by side.

    Used as `ShardWriter` is, with the same errors: what was made of a clip is added at once, both sets are
    finished when the context is left without an error, and after an interruption both go on from `num_done`.
    `tensor_writer` can't do this, since it takes a finished folder.

    recipe, tensors_recipe: of the clips and of the set `name`.
    expected: number of clips that will be written in all.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        *,
        recipe: dict[str, Any],
        tensors_recipe: dict[str, Any],
        expected: int,
        sample_format: SampleFormat | None = None,
        clips_per_shard: int = 64,
        existing: Existing = "refuse",
    ) -> None:
        self.folder, self.name = Path(folder), name
        self._tensors_recipe = tensors_recipe
        self._clips = ShardWriter(
            folder,
            recipe=recipe,
            sample_format=sample_format,
            clips_per_shard=clips_per_shard,
            existing=existing,
            expected=expected,
        )
        self._tensors = ShardWriter(
            folder,
            recipe=self._recipe_for(self._fingerprint_there()),
            clips_per_shard=clips_per_shard,
            existing=existing,
            name=name,
            expected=expected,
        )

    @property
    def num_done(self) -> int:
        """Clips that are finished with their tensors: where to go on."""
        return min(self._clips.num_done, self._tensors.num_done)

    def add(self, number: int, clip: Clip, tensors: dict[str, Tensor]) -> None:
        """Adds clip `number`; numbers go on from `num_done`.

        A kill between two shards can leave one set a shard ahead of the other: what it has already is not
        added to it again.
        """
        if number >= self._clips.num_written:
            self._clips.add_clip(clip)
        if number >= self._tensors.num_written:
            self._tensors.add_tensors(tensors)

    def __enter__(self) -> PairedWriter:
        self._clips.__enter__()
        self._tensors.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._tensors.__exit__(kind, error, trace)
            self._clips.__exit__(kind, error, trace)
            return
        try:
            self._clips.__exit__(None, None, None)
        except BaseException as failure:
            self._tensors.__exit__(type(failure), failure, None)
            raise
        self._tensors.recipe = self._recipe_for(ShardIndex.load(self.folder).fingerprint)
        self._tensors.__exit__(None, None, None)

    def _recipe_for(self, fingerprint: str | None) -> dict[str, Any]:
        """The set's recipe; the clips' fingerprint is known only once they are finished."""
        return {"clips": fingerprint, **self._tensors_recipe}

    def _fingerprint_there(self) -> str | None:
        """What an earlier writer noted, so that going on is not refused for it."""
        for file in (index_file(self.name), unfinished_file(self.name)):
            if (path := self.folder / file).is_file():
                found = read_content(path).recipe.get("clips")
                return None if found is None else str(found)
        return None

"""Clips and the tensors that belong to them, made together and written as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from data.clips import Clip
from data.part_records import read_undertaking
from data.shard_index import (
    SampleFormat,
    ShardIndex,
    index_file,
    read_content,
    unfinished_file,
)
from data.shard_parts import Existing
from data.shard_writing import ShardWriter
from data.work_share import ALL_WORK, WorkShare


class PairedWriter:
    """Writes a shard folder and one set of tensors of its clips side by side.

    Used as `ShardWriter` is, with the same errors: what was made of a clip is added at once, both sets are
    finished when the context is left without an error, and a shard that one of them lacks is made again for both.
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
        share: WorkShare = ALL_WORK,
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
            share=share,
        )
        self._tensors = ShardWriter(
            folder,
            recipe=self._recipe_for(self._fingerprint_there()),
            clips_per_shard=clips_per_shard,
            existing=existing,
            name=name,
            expected=expected,
            share=share,
        )

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds all clips and their tensors, those of other processes included."""
        return self._clips.is_finished and self._tensors.is_finished

    @property
    def num_done(self) -> int:
        """Clips that are finished with their tensors, whoever made them."""
        return self._clips.num_done

    @property
    def num_own(self) -> int:
        """Clips in this process's share of the shards."""
        return self._clips.num_own

    @property
    def num_to_do(self) -> int:
        """Clips that this process has still to add."""
        return self._clips.num_to_do

    def numbers(self) -> Iterator[int]:
        """As of `ShardWriter`."""
        return self._clips.numbers()

    def batches(self, batch_size: int) -> Iterator[range]:
        """As of `ShardWriter`."""
        return self._clips.batches(batch_size)

    def add(self, number: int, clip: Clip, tensors: dict[str, Tensor]) -> None:
        """Adds clip `number`, the next of `numbers()`."""
        assert number == self._clips.next_number == self._tensors.next_number
        self._clips.add_clip(clip)
        self._tensors.add_tensors(tensors)

    def __enter__(self) -> PairedWriter:
        self._clips.__enter__()
        self._tensors.__enter__()
        done = self._clips.done & self._tensors.done
        self._clips.count_as_done(set(done))
        self._tensors.count_as_done(set(done))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._clips.finish()
                if self._clips.is_finished:
                    fingerprint = ShardIndex.load(self.folder).fingerprint
                    self._tensors.recipe = self._recipe_for(fingerprint)
                    self._tensors.finish()
        finally:
            self._tensors.close()
            self._clips.close()

    def _recipe_for(self, fingerprint: str | None) -> dict[str, Any]:
        """The set's recipe; the clips' fingerprint is known only once they are finished."""
        return {"clips": fingerprint, **self._tensors_recipe}

    def _fingerprint_there(self) -> str | None:
        """What an earlier writer noted, so that going on is not refused for it."""
        index, unfinished = (
            self.folder / file for file in (index_file(self.name), unfinished_file(self.name))
        )
        if index.is_file():
            found = read_content(index).recipe.get("clips")
        elif unfinished.is_file():
            found = read_undertaking(unfinished).recipe.get("clips")
        else:
            return None
        return None if found is None else str(found)

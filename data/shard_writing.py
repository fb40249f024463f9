"""Writing shard folders that are either finished or plainly not, and that can be gone on with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import safetensors.torch
from torch import Tensor

from configs.errors import UserError
from data.clips import Clip
from data.part_records import PartRecord
from data.shard_file import ShardFile
from data.shard_index import CLIPS, SampleFormat, ShardIndex
from data.shard_parts import Existing, ShardParts
from data.shard_samples import EncodedSample, encode_clip, encode_members
from data.shards import TENSORS_MEMBER
from data.work_share import ALL_WORK, WorkShare


class ShardWriter:
    """Writes numbered samples to a shard folder: a context manager that finishes it when left without an error.

    Every shard holds the samples of fixed numbers, and is one part of `data.shard_parts`: several processes may
    write a set together, each its `share` of the shards, and the one that finds none missing at its end finishes
    the folder. After an interruption the finished shards stay, and a writer with `existing="resume"` and the same
    recipe goes on: add the samples that `numbers()` names, in that order. A finished folder is added to in the
    same way. Nothing is touched before the first sample comes.

    folder: made where it is missing.
    expected: number of samples that there will be in all.
    recipe: JSON-like description of what is written; must match when resuming.
    existing: what to do with a folder that already holds shards: refuse it, delete them, or go on.
    name: `CLIPS`, or the name of a set of tensors.
    layout: samples in each shard and the key of each sample, where they are not `clips_per_shard` and
        `sample_key` of the number.

    Raises UserError where the folder holds shards and `existing` is "refuse", where the recipe differs,
    where the disk is full (with the bytes needed), and where clips differ in size.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        expected: int,
        recipe: dict[str, Any] | None = None,
        sample_format: SampleFormat | None = None,
        clips_per_shard: int = 64,
        existing: Existing = "refuse",
        name: str = CLIPS,
        share: WorkShare = ALL_WORK,
        layout: tuple[Sequence[int], Sequence[str]] | None = None,
    ) -> None:
        if clips_per_shard < 1:
            raise UserError(f"clips per shard is {clips_per_shard}, expected at least 1")
        self.folder = Path(folder)
        self.expected = expected
        self.recipe = recipe or {}
        self.sample_format = sample_format or SampleFormat()
        self._clips_per_shard = clips_per_shard
        self._existing = existing
        self._name = name
        self._share = share
        self._keys = None if layout is None else layout[1]
        sizes = _even_sizes(expected, clips_per_shard) if layout is None else layout[0]
        ends = list(itertools.accumulate(sizes))
        self._ranges = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._image_size: tuple[int, int] | None = None
        self._file: ShardFile | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds all samples, those of other processes included."""
        return self._parts.is_finished and not self._to_do

    @property
    def num_done(self) -> int:
        """Samples in finished shards, whoever wrote them."""
        return sum(len(self._ranges[shard]) for shard in self.done)

    @property
    def num_own(self) -> int:
        """Samples in this process's share of the shards."""
        own = (numbers for shard, numbers in enumerate(self._ranges) if self._share.takes(shard))
        return sum(map(len, own))

    @property
    def num_to_do(self) -> int:
        """Samples that this process has still to add."""
        to_do = sum(len(self._ranges[shard]) for shard in self._to_do)
        return to_do - (len(self._file.samples) if self._file else 0)

    @property
    def next_number(self) -> int:
        """The number of the sample that is to be added next."""
        return self._ranges[self._to_do[0]].start + (len(self._file.samples) if self._file else 0)

    def numbers(self) -> Iterator[int]:
        """The numbers of the samples that this process has still to add, in the order to add them."""
        return itertools.chain.from_iterable(self.batches(1))

    def batches(self, batch_size: int) -> Iterator[range]:
        """`numbers()` in batches that end with their shard at the latest.

        So the batches are the same wherever a writer goes on, and with them whatever rounding depends on.
        """
        for shard in list(self._to_do):
            numbers = self._ranges[shard]
            for first in range(numbers.start, numbers.stop, batch_size):
                yield range(first, min(first + batch_size, numbers.stop))

    def key(self, number: int) -> str:
        """The name of sample `number` inside its tar file."""
        return sample_key(number) if self._keys is None else self._keys[number]

    def add_clip(self, clip: Clip) -> None:
        """Adds the clip of the next number."""
        self.add(encode_clip(clip, self.key(self.next_number), self.sample_format))

    def add_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Adds the tensors that belong to the clip of the next number."""
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        members = {TENSORS_MEMBER: safetensors.torch.save(stored)}
        self.add(encode_members(self.key(self.next_number), members))

    def add(self, sample: EncodedSample) -> None:
        """Adds a sample that was encoded elsewhere, with the key of the next number."""
        number = self.next_number
        assert sample.record.key == self.key(number)
        height, width = self._image_size or (sample.height, sample.width)
        if (sample.height, sample.width) != (height, width):
            raise UserError(
                f"{self.folder}: clip {number} is {sample.height}x{sample.width} but those before it are"
                f" {height}x{width}; prepare all clips of a folder at one size"
            )
        self._image_size = height, width
        self._parts.begin()
        shard = self._to_do[0]
        if self._file is None:
            self._file = ShardFile(self._parts.shard_path(shard))
        self._file.append(sample, self.num_to_do - 1)
        if number + 1 == self._ranges[shard].stop:
            self._parts.publish(shard, self._file, self._image_size)
            self._file = None
            self.done.add(self._to_do.pop(0))

    def count_as_done(self, shards: set[int]) -> None:
        """Counts no other shard as done, so that this process writes its share of the others again."""
        self.done = shards
        own = filter(self._share.takes, range(len(self._ranges)))
        self._to_do = [shard for shard in own if shard not in shards]

    def __enter__(self) -> ShardWriter:
        if self.expected < 1:
            raise UserError(f"{self.folder}: there are no clips to write")
        self._parts = ShardParts(
            self.folder,
            recipe=self.recipe,
            sample_format=self.sample_format if self._name == CLIPS else None,
            clips_per_shard=self._clips_per_shard if self._keys is None else None,
            name=self._name,
            existing=self._existing,
            alone=self._share.is_all,
        )
        present = self._parts.recorded()
        total = sum(record.num_samples for record in present.values())
        if total > self.expected:
            raise UserError(
                f"{self.folder}: already holds {total} samples, more than the {self.expected} asked for; ask for"
                " at least as many, or use --overwrite"
            )
        for record in present.values():
            self._image_size = record.height, record.width
        self.count_as_done(
            {shard for shard, record in present.items() if self._whole(shard, record)}
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def finish(self) -> None:
        """Finishes the folder, unless other processes are still at work on their shares."""
        if self._to_do:
            what = "clips" if self._name == CLIPS else f"sets of tensors {self._name!r}"
            raise UserError(
                f"{self.folder}: {self.next_number} {what} for the {self.expected} that were announced"
            )
        if self._parts.is_finished and not self._parts.has_begun:
            self._parts.forget()
            return
        records = [self._parts.record(shard) for shard in range(len(self._ranges))]
        whole = [r for s, r in enumerate(records) if r is not None and self._whole(s, r)]
        if len(whole) == len(records):
            self._parts.recipe = self.recipe
            self._parts.finish(whole)

    def close(self) -> None:
        """Leaves nothing of a shard that isn't full."""
        if self._file is not None:
            self._file.drop()
        self._parts.abandon()

    def _whole(self, shard: int, record: PartRecord) -> bool:
        return shard < len(self._ranges) and record.num_samples == len(self._ranges[shard])


def write_shards(
    clips: Iterable[Clip],
    folder: str | Path,
    *,
    recipe: dict[str, Any] | None = None,
    sample_format: SampleFormat | None = None,
    clips_per_shard: int = 64,
    existing: Literal["refuse", "overwrite"] = "refuse",
) -> ShardIndex:
    """The index of a new shard folder that holds `clips`, in their order; see `ShardWriter`."""
    clips = list(clips)
    writer = ShardWriter(
        folder,
        expected=len(clips),
        recipe=recipe,
        sample_format=sample_format,
        clips_per_shard=clips_per_shard,
        existing=existing,
    )
    with writer:
        for clip in clips:
            writer.add_clip(clip)
    return ShardIndex.load(folder)


def tensor_writer(
    index: ShardIndex,
    name: str,
    *,
    recipe: dict[str, Any],
    existing: Existing = "refuse",
    share: WorkShare = ALL_WORK,
) -> ShardWriter:
    """A writer of tensors that belong to the clips of `index`: one `add_tensors` a clip, in their order.

    Its shards are those of the clips.

    name: of the set, such as "latents"; read back with `read_tensors` or `ShardClip.tensors(name)`.
    recipe: what they were made with (which weights); `index.tensors` refuses them for other clips.
    """
    if name == CLIPS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"a set of tensors can't be named {name!r}; use small letters, digits and _"
        )
    shards = index.content.shards
    return ShardWriter(
        index.folder,
        expected=len(index),
        recipe={"clips": index.fingerprint, **recipe},
        name=name,
        existing=existing,
        share=share,
        layout=(
            [shard.num_clips for shard in shards],
            [sample.key for shard in shards for sample in shard.samples],
        ),
    )


def num_own_clips(index: ShardIndex, share: WorkShare) -> int:
    """Clips in the shards that are this process's share of work on `index`."""
    shards = enumerate(index.content.shards)
    return sum(shard.num_clips for number, shard in shards if share.takes(number))


def sample_key(number: int) -> str:
    """The name of sample `number` inside its tar file."""
    return f"{number:08d}"


def _even_sizes(expected: int, clips_per_shard: int) -> list[int]:
    whole, rest = divmod(expected, clips_per_shard)
    return [clips_per_shard] * whole + [rest] * (rest > 0)

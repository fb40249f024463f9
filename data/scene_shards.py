"""Shards of a whole set of scenes, made by any number of processes on any number of machines.

The scenes, in the order of their names, are dealt into parts of `scenes_per_shard`; each part gives one shard, or none
where all of its scenes are left out. Which part a scene is in, and what its clips are, depends on nothing but the set
and the rules: not on the number of processes, nor on where they were stopped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data.durable_files import stray_temporaries
from data.importers.posed_scene import SceneRef, SceneSet
from data.left_out import (
    FILE,
    LeftOut,
    LeftOutEntry,
    Reason,
    count_by_reason,
    left_out_for,
    read_left_out,
    write_left_out,
)
from data.scene_clips import ClipRules, scene_clips
from data.shard_file import ShardFile
from data.shard_index import SampleFormat, ShardIndex
from data.shard_parts import Existing, ShardParts
from data.shard_samples import EncodedSample, encode_clip
from data.work_share import ALL_WORK, WorkShare
from data.worker_pool import map_in_order

QUEUED_PER_WORKER = 2
"""Scenes under way or finished and waiting, each with the encoded clips of one scene in memory."""


@dataclass(frozen=True)
class SceneJob:
    """One scene to be read, and all that this takes; travels to a worker. number: among all scenes of the set."""

    number: int
    scene: SceneRef
    scenes: SceneSet
    kind: str
    caption: str
    rules: ClipRules
    sample_format: SampleFormat


@dataclass(frozen=True)
class SceneResult:
    """What came of a scene: encoded clips, and what was left out of it."""

    number: int
    samples: list[EncodedSample]
    left_out: list[LeftOutEntry]


class SceneShards:
    """A shard folder that is made from a set of scenes.

    kind: of the set, for recipe and sources. captions: by scene name, "" where one is missing.
    share: which parts this process makes. existing: as for `ShardParts`.

    Raises UserError where the folder holds other shards, or where the set has no scenes.
    """

    def __init__(
        self,
        folder: Path,
        scenes: SceneSet,
        kind: str,
        rules: ClipRules,
        *,
        sample_format: SampleFormat,
        captions: Mapping[str, str] | None = None,
        scenes_per_shard: int = 32,
        existing: Existing = "refuse",
        share: WorkShare = ALL_WORK,
    ) -> None:
        self.folder = folder
        self.refs = scenes.list_scenes()
        self.num_scenes = len(self.refs)
        self._scenes, self._kind, self._rules = scenes, kind, rules
        self._format = sample_format
        self._captions = captions or {}
        self._per_part = scenes_per_shard
        self._num_parts = -(-len(self.refs) // scenes_per_shard)
        self._parts = ShardParts(
            folder,
            recipe=self._recipe(),
            sample_format=sample_format,
            existing=existing,
            alone=share.is_all,
        )
        is_there = self._parts.is_finished and existing != "overwrite"
        self._own = list(filter(share.takes, range(self._num_parts)))
        self._to_do = [
            part for part in self._own if not is_there and self._parts.record(part) is None
        ]

    @property
    def is_finished(self) -> bool:
        """Whether the folder has its index, to which all processes have brought their share."""
        return self._parts.is_finished

    @property
    def num_own(self) -> int:
        """Scenes in this process's share."""
        return sum(len(self._scenes_of(part)) for part in self._own)

    @property
    def num_to_do(self) -> int:
        """Scenes that this process has still to read."""
        return sum(len(self._scenes_of(part)) for part in self._to_do)

    def write(
        self, num_workers: int = 1, progress: Callable[[int], None] = lambda scenes: None
    ) -> None:
        """Makes this process's parts, and the index where no part is missing then.

        The bytes do not depend on `num_workers`. `progress` is called with the number of scenes done since its last
        call. Raises UserError where nothing is left of all scenes.
        """
        results = map_in_order(
            read_scene,
            self._jobs(),
            num_workers,
            queued_per_worker=QUEUED_PER_WORKER,
            killed=_killed,
        )
        try:
            for part in list(self._to_do):
                numbers = self._scenes_of(part)
                self._write_part(part, itertools.islice(results, len(numbers)), progress)
                self._to_do.remove(part)
        finally:
            self._parts.abandon()
        self._finish()

    def _write_part(
        self, part: int, results: Iterator[SceneResult], progress: Callable[[int], None]
    ) -> None:
        shard: ShardFile | None = None
        size = 0, 0
        notes: list[dict[str, Any]] = []
        try:
            for result in results:
                for sample in result.samples:
                    if shard is None:
                        self._parts.begin()
                        shard = ShardFile(self._parts.shard_path(part))
                    shard.append(sample)
                    size = sample.height, sample.width
                notes += [entry.as_note() for entry in result.left_out]
                progress(1)
            self._parts.publish(part, shard, size, notes)
        except BaseException:
            if shard is not None:
                shard.drop()
            raise

    def _finish(self) -> None:
        if self._parts.is_finished and not self._parts.has_begun:
            self._parts.forget()
            return
        records = [self._parts.record(part) for part in range(self._num_parts)]
        done = [record for record in records if record is not None]
        if len(done) < len(records):
            return  # other processes are still at work, or one of them has finished the set by now
        entries = [LeftOutEntry(**note) for record in done for note in record.notes]
        try:
            write_left_out(self.folder, entries)
        except UserError:
            if self._parts.is_finished:
                return  # another process was faster, and has tidied up under our hands
            raise
        if not any(record.shard for record in done):
            self._parts.forget()
            reasons = "; ".join(f"{why}: {what}" for why, what in count_by_reason(entries).items())
            raise UserError(
                f"{self.folder}: nothing is left of {len(self.refs)} scenes ({reasons}); {FILE} there tells of each"
            )
        self._parts.finish(done)
        for stray in stray_temporaries(self.folder / FILE):
            stray.unlink(missing_ok=True)

    def _jobs(self) -> Iterator[SceneJob]:
        for part in list(self._to_do):
            for number in self._scenes_of(part):
                ref = self.refs[number]
                caption = self._captions.get(ref.name, "")
                yield SceneJob(
                    number, ref, self._scenes, self._kind, caption, self._rules, self._format
                )

    def _scenes_of(self, part: int) -> range:
        first = part * self._per_part
        return range(first, min(first + self._per_part, len(self.refs)))

    def _recipe(self) -> dict[str, Any]:
        """What the clips are a function of; the place of the set is not, so that it may move."""
        names = "\n".join(f"{ref.name}\t{ref.place}" for ref in self.refs)
        captions = "\n".join(f"{name}\t{text}" for name, text in sorted(self._captions.items()))
        return {
            "source": self._kind,
            "num_scenes": len(self.refs),
            "scenes": hashlib.sha256(names.encode()).hexdigest(),
            "scenes_per_shard": self._per_part,
            "captions": hashlib.sha256(captions.encode()).hexdigest() if captions else None,
            "rules": self._rules.model_dump(mode="json"),
        }


def read_scene(job: SceneJob) -> SceneResult:
    """The encoded clips of a scene, and what was left out of it. Runs in a worker."""
    samples: list[EncodedSample] = []
    left_out: list[LeftOutEntry] = []
    name = job.scene.name
    try:
        with left_out_for(Reason.CAMERAS):
            scene = job.scenes.open(job.scene, job.rules.fit)
        for cut, found in scene_clips(scene, job.rules, job.kind):
            if isinstance(found, LeftOut):
                left_out.append(LeftOutEntry.of(name, found, cut.describe()))
                continue
            key = f"{job.number:06d}-{len(samples):03d}"
            clip = replace(found, caption=job.caption)
            samples.append(encode_clip(clip, key, job.sample_format))
            del clip, found  # else two clips' frames would be in memory at once
    except LeftOut as error:
        left_out.append(LeftOutEntry.of(name, error))
    except OSError as error:
        unreadable = LeftOut(Reason.UNREADABLE, f"{name}: {error}")
        left_out.append(LeftOutEntry.of(name, unreadable))
    return SceneResult(job.number, samples, left_out)


def scenes_account(folder: Path, num_scenes: int) -> dict[str, str]:
    """Rows for the report of a finished folder: how many scenes gave clips, and what was left out for which reason."""
    shards = ShardIndex.load(folder).content.shards
    used = {sample.key.partition("-")[0] for shard in shards for sample in shard.samples}
    counts = count_by_reason(read_left_out(folder))
    return {
        "scenes": f"{len(used):,} of {num_scenes:,} gave clips",
        **{f"left out: {reason}": count for reason, count in counts.items()},
        "each with its reason": FILE if counts else "",
    }


def _killed(job: SceneJob) -> SceneResult:
    error = LeftOut(
        Reason.KILLED,
        f"{job.scene.name}: the process that read it was killed twice, by a crash of a decoder or for want of memory",
    )
    return SceneResult(job.number, [], [LeftOutEntry.of(job.scene.name, error)])

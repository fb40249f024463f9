"""Writing shard folders that are either finished or plainly not, and that can be gone on with."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import safetensors.torch
from torch import Tensor

from configs.errors import UserError
from data.clips import Clip
from data.durable_files import (
    TEMPORARY_SUFFIX,
    disk_errors_explained,
    publish,
    sync,
    write_durably,
)
from data.shard_index import (
    CLIPS,
    VERSION,
    IndexContent,
    SampleFormat,
    SampleRecord,
    ShardIndex,
    ShardRecord,
    index_file,
    read_content,
    unfinished_file,
)
from data.shard_samples import EncodedSample, encode_clip, encode_members
from data.shards import TENSORS_MEMBER

TAR_END = bytes(1024)
Existing = Literal["refuse", "overwrite", "resume"]


class ShardWriter:
    """Appends samples to a shard folder: a context manager that finishes it when left without an error.

    A shard is written under a temporary name, synced and renamed when it is full; `unfinished.json`
    then lists it, and `index.json` takes that file's place at the very end. After an interruption the
    finished shards stay, and a writer with `existing="resume"` and the same recipe goes on after them:
    give it the clips from number `num_done` on. A finished folder is added to in the same way. Nothing
    is touched before the first sample comes.

    folder: made where it is missing.
    recipe: JSON-like description of what is written; must match when resuming.
    existing: what to do with a folder that already holds shards: refuse it, delete them, or go on.
    name: `CLIPS`, or the name of a set of tensors.
    expected: number of samples that will be written in all, for messages; 0 where unknown.

    Raises UserError where the folder holds shards and `existing` is "refuse", where the recipe differs,
    where the disk is full (with the bytes needed), and where clips differ in size.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        recipe: dict[str, Any] | None = None,
        sample_format: SampleFormat | None = None,
        clips_per_shard: int = 64,
        existing: Existing = "refuse",
        name: str = CLIPS,
        expected: int = 0,
    ) -> None:
        if clips_per_shard < 1:
            raise UserError(f"clips per shard is {clips_per_shard}, expected at least 1")
        self.folder = Path(folder)
        self.recipe = recipe or {}
        self.sample_format = sample_format or SampleFormat()
        self.clips_per_shard = clips_per_shard
        self._name = name
        self._expected = expected
        self._size: tuple[int, int] | None = None
        self._shards: list[ShardRecord] = []
        self._samples: list[SampleRecord] = []
        self._file: BinaryIO | None = None
        self._existing = existing
        self._stale: list[Path] = []
        self._begun = self._made_folder = False

    @property
    def num_done(self) -> int:
        """Samples in finished shards: where to go on."""
        return sum(shard.num_clips for shard in self._shards)

    @property
    def num_written(self) -> int:
        """Samples added so far, those of the shard in hand included: the number of the next one."""
        return self.num_done + len(self._samples)

    def add_clip(self, clip: Clip) -> None:
        """Appends a clip under the next number."""
        self.add(encode_clip(clip, sample_key(self.num_written), self.sample_format))

    def add_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Appends the tensors that belong to the clip of the next number."""
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        members = {TENSORS_MEMBER: safetensors.torch.save(stored)}
        self.add(encode_members(sample_key(self.num_written), members))

    def add(self, sample: EncodedSample) -> None:
        """Appends a sample that was encoded elsewhere, with the key of the next number."""
        assert sample.record.key == sample_key(self.num_written)
        size = (sample.height, sample.width)
        self._size = self._size or size
        if size != self._size:
            raise UserError(
                f"{self.folder}: clip {self.num_written} is {size[0]}x{size[1]} but those before it are"
                f" {self._size[0]}x{self._size[1]}; prepare all clips of a folder at one size"
            )
        offset = self._samples[-1].offset + self._samples[-1].size if self._samples else 0
        self._append(sample.content)
        self._samples.append(sample.record.model_copy(update={"offset": offset}))
        if len(self._samples) == self.clips_per_shard:
            self._finish_shard()

    def __enter__(self) -> ShardWriter:
        self._inspect_folder()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    def _finish(self) -> None:
        if self._name != CLIPS and self.num_written != self._expected:
            raise UserError(
                f"{self.folder}: {self.num_written} sets of tensors {self._name!r} for"
                f" {self._expected} clips"
            )
        if self._samples:
            self._finish_shard()
        if not self._shards:
            raise UserError(f"{self.folder}: there are no clips to write")
        if self._begun or not self._index_path.exists():
            write_durably(self._index_path, self._content().to_json())
        self._unfinished_path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        self._drop_shard()
        if self._begun and not self._shards:
            self._unfinished_path.unlink(missing_ok=True)
            if self._made_folder and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _inspect_folder(self) -> None:
        """Decides what stays and what must go, but changes nothing before there is a sample to write."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; expected a folder to write shards to")
        present = [path for path in (self._index_path, self._unfinished_path) if path.exists()]
        shard_files = sorted(self.folder.glob(f"{self._name}-*.tar"))
        if not present and shard_files:
            raise UserError(
                f"{self.folder}: has {shard_files[0].name} but no {self._index_path.name}; choose"
                " another folder or remove the shards"
            )
        if present and self._existing == "refuse":
            state = "finished" if present[0] == self._index_path else "unfinished"
            raise UserError(
                f"{self.folder}: already holds {state} shards; add --resume to go on with them,"
                " --overwrite to replace them, or choose another folder"
            )
        if present and self._existing == "resume":
            self._keep_shards(present[0])
        kept = {shard.file for shard in self._shards}
        self._stale = [path for path in shard_files if path.name not in kept]
        self._stale += self.folder.glob(f"{self._name}-*.tar{TEMPORARY_SUFFIX}")

    def _keep_shards(self, present: Path) -> None:
        content = read_content(present)
        self._check_same_settings(present, content)
        if self._expected and content.num_clips > self._expected:
            raise UserError(
                f"{present}: already holds {content.num_clips} samples, more than the {self._expected}"
                " asked for; ask for at least as many, or use --overwrite"
            )
        for shard in content.shards:
            path = self.folder / shard.file
            if not path.is_file() or _sha256(path) != shard.sha256:
                raise UserError(
                    f"{path}: is missing or damaged, so these shards can't be gone on with; use"
                    " --overwrite to make them again"
                )
        # A short last shard is made again, so that the files don't depend on where we stopped.
        last_is_short = bool(content.shards) and content.shards[-1].num_clips < self.clips_per_shard
        whole = content.num_clips == self._expected
        self._shards = list(content.shards[:-1] if last_is_short and not whole else content.shards)
        if content.shards:
            self._size = (content.height, content.width)

    def _begin(self) -> None:
        """Takes the folder. At each moment it holds a finished set or says that it is unfinished."""
        self._made_folder = not self.folder.exists()
        with disk_errors_explained(self.folder, 0):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._begun = True
        self._publish_unfinished()
        for path in [self._index_path, *self._stale]:
            path.unlink(missing_ok=True)

    def _check_same_settings(self, present: Path, content: IndexContent) -> None:
        first = content.shards[0].num_clips if len(content.shards) > 1 else self.clips_per_shard
        found = {**content.recipe, "format": content.format, "clips per shard": first}
        wanted = {
            **self.recipe,
            "format": self._stored_format(),
            "clips per shard": self.clips_per_shard,
        }
        differences = [
            f"{key} was {found.get(key)}, now it is {wanted.get(key)}"
            for key in dict.fromkeys([*found, *wanted])
            if found.get(key) != wanted.get(key)
        ]
        if differences:
            raise UserError(
                f"{present}: its shards were made otherwise: {'; '.join(differences)}; resume with the"
                " same settings, or use --overwrite"
            )

    def _append(self, content: bytes) -> None:
        if not self._begun:
            self._begin()
        rest = max(0, self._expected - self.num_written - 1)
        with disk_errors_explained(
            self._shard_path, len(content) * (1 + rest), ", then go on with --resume"
        ):
            try:
                if self._file is None:
                    self._file = self._temporary_path.open("wb")
                self._file.write(content)
            except BaseException:
                self._drop_shard()
                raise

    def _finish_shard(self) -> None:
        path, temporary = self._shard_path, self._temporary_path
        self._append(TAR_END)
        assert self._file is not None
        with disk_errors_explained(path, self._file.tell(), ", then go on with --resume"):
            try:
                sync(self._file)
                self._file.close()
                record = ShardRecord(
                    file=path.name,
                    sha256=_sha256(temporary),
                    bytes=temporary.stat().st_size,
                    num_clips=len(self._samples),
                    samples=tuple(self._samples),
                )
                publish(temporary, path)
            except BaseException:
                self._drop_shard()
                raise
        self._shards.append(record)
        self._samples, self._file = [], None
        self._publish_unfinished()

    def _drop_shard(self) -> None:
        if self._file is not None:
            # Closing flushes, which fails again on a full disk; the file goes either way.
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary_path.unlink(missing_ok=True)
        self._file, self._samples = None, []

    def _publish_unfinished(self) -> None:
        write_durably(self._unfinished_path, self._content().to_json())

    def _content(self) -> IndexContent:
        height, width = self._size or (0, 0)
        return IndexContent(
            version=VERSION,
            num_clips=self.num_done,
            height=height,
            width=width,
            format=self._stored_format(),
            recipe=self.recipe,
            shards=tuple(self._shards),
        )

    def _stored_format(self) -> SampleFormat | None:
        return self.sample_format if self._name == CLIPS else None

    @property
    def _shard_path(self) -> Path:
        return self.folder / f"{self._name}-{len(self._shards):06d}.tar"

    @property
    def _temporary_path(self) -> Path:
        return self._shard_path.with_name(self._shard_path.name + TEMPORARY_SUFFIX)

    @property
    def _index_path(self) -> Path:
        return self.folder / index_file(self._name)

    @property
    def _unfinished_path(self) -> Path:
        return self.folder / unfinished_file(self._name)


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
    writer = ShardWriter(
        folder,
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
    index: ShardIndex, name: str, *, recipe: dict[str, Any], existing: Existing = "refuse"
) -> ShardWriter:
    """A writer of tensors that belong to the clips of `index`: one `add_tensors` a clip, in their order.

    name: of the set, such as "latents"; read back with `read_tensors` or `ShardClip.tensors(name)`.
    recipe: what they were made with (which weights); `index.tensors` refuses them for other clips.
    """
    if name == CLIPS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"a set of tensors can't be named {name!r}; use small letters, digits and _"
        )
    return ShardWriter(
        index.folder,
        recipe={"clips": index.fingerprint, **recipe},
        clips_per_shard=index.content.shards[0].num_clips,
        name=name,
        existing=existing,
        expected=len(index),
    )


def batches_within_shards(
    first: int, num_samples: int, clips_per_shard: int, batch_size: int
) -> Iterator[range]:
    """Numbers `first` to `num_samples` in batches that end with their shard at the latest.

    So the batches are the same wherever a writer goes on, and with them whatever rounding depends on.
    """
    while first < num_samples:
        shard_end = (first // clips_per_shard + 1) * clips_per_shard
        batch = range(first, min(first + batch_size, shard_end, num_samples))
        yield batch
        first = batch.stop


def sample_key(number: int) -> str:
    """The name of sample `number` inside its tar file."""
    return f"{number:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

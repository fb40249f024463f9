"""A YAML recipe and `key=value` overrides become one validated tree, or one list of every mistake.

    config = load_config("configs/tiny/lalrm.yaml", ["lr=3e-4", "stages.0.steps=100"], TrainConfig)

A recipe holds only what differs from the defaults of the config classes. Where it gives a mapping,
the keys left out take the defaults of that mapping's class. How scalars are read (booleans,
numbers, dates) is told in `configs/yaml_tree.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from configs.errors import UserError
from configs.validation import describe, nearest_word, validate_tree
from configs.yaml_tree import KeyPath, dotted, parse_yaml, write_yaml

T = TypeVar("T", bound=BaseModel)


class Config(BaseModel):
    """The base of every config class: refuses unknown keys, NaN and infinity, and never changes.

    Hashable as long as its fields are: write `tuple[int, ...]`, not `list[int]`. Alternatives are a
    union with `Field(discriminator="kind")`, each with its own `kind: Literal["..."]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def load_config(path: str | Path | None, overrides: Sequence[str], schema: type[T]) -> T:
    """The recipe in `path` with `overrides` laid over it from left to right, validated as `schema`.

    Without a path the overrides are laid over the defaults.
    An override is `key=value`: the key is dotted and may go into a list by index
    (`stages.0.steps=10`), the value is YAML (`size=[64, 96]`, `name=null`).

    Raises UserError with one line per mistake: file and line or the override, the full key, what
    was found, what was expected, and the nearest valid key.
    """
    return _read(path, overrides).result(schema)


def load_config_by_kind(
    path: str | Path | None, overrides: Sequence[str], schemas: Mapping[str, type[T]]
) -> T:
    """As `load_config`, with the one of several schemas that the top-level key `kind` names."""
    reading = _read(path, overrides)
    return reading.result(reading.choose(schemas))


def dump_config(config: BaseModel, path: str | Path) -> None:
    """Writes the whole tree, defaults included, as YAML that `load_config` reads back the same.

    The file appears complete or not at all; missing folders are made. Raises UserError where it
    cannot be written.
    """
    path = Path(path)
    text = write_yaml(config.model_dump(mode="json"))
    unfinished: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        unfinished = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as error:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write the configuration: {error.strerror}") from error


def _read(path: str | Path | None, overrides: Sequence[str]) -> _Reading:
    reading = _Reading()
    if path is not None:
        reading.read_file(Path(path))
    for override in overrides:
        reading.apply_override(override)
    return reading


class _Reading:
    """One load in progress: the tree so far, where each part came from, and the mistakes met."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.sources: dict[KeyPath, str] = {(): ""}
        self.file = ""
        self.complete = True
        self.mistakes: list[str] = []

    def read_file(self, path: Path) -> None:
        self.file = str(path)
        self.sources[()] = self.file
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.mistakes.append(f"{path}: cannot read the recipe: {reason}")
            self.complete = False
            return
        parsed = parse_yaml(text)
        for line, key, sentence in parsed.mistakes:
            self.mistakes.append(
                ": ".join(part for part in (_place(self.file, line), key, sentence) if part)
            )
        if not parsed.readable:
            self.complete = False
        elif parsed.value is None or isinstance(parsed.value, dict):
            self.tree = parsed.value or {}
            self.sources |= {
                key: _place(self.file, line) for key, line in parsed.lines.items() if key
            }
        else:
            found = describe(parsed.value)
            self.mistakes.append(f"{path}: found {found}, expected a mapping of keys to values")
            self.complete = False

    def apply_override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        source = f"override {override!r}"
        if not equals or not key.strip() or not all(part.strip() for part in key.split(".")):
            self.mistakes.append(f"{source}: expected key=value, such as train.lr=1e-4")
            return
        if key.startswith("-"):
            self.mistakes.append(
                f"{source}: expected key=value without dashes, such as {override.lstrip('-')}"
            )
            return
        parsed = parse_yaml(text)
        if parsed.mistakes:
            self.mistakes += [f"{source}: {key}: {sentence}" for _, _, sentence in parsed.mistakes]
            return
        problem = self.set(key.strip(), parsed.value, source)
        if problem and self.complete:
            self.mistakes.append(f"{source}: {problem}")

    def set(self, key: str, value: Any, source: str) -> str | None:
        """Puts the value into the tree; returns what stands in the way, or None."""
        node: Any = self.tree
        path: list[str | int] = []
        parts = key.split(".")
        for depth, part in enumerate(parts):
            if isinstance(node, list):
                if not part.isdecimal() or int(part) >= len(node):
                    where = f"{dotted(tuple(path))} is a list of {len(node)}"
                    return f"{where}: expected an index below {len(node)}, found {part!r}"
                path.append(int(part))
            elif isinstance(node, dict):
                path.append(part)
            else:
                return f"{key}: {dotted(tuple(path))} is {describe(node)}, not a mapping"
            if depth == len(parts) - 1:
                node[path[-1]] = value
            elif isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
                self.sources[tuple(path)] = source
            node = node[path[-1]]
        target = tuple(path)
        self.sources = {k: v for k, v in self.sources.items() if k[: len(target)] != target}
        self.sources[target] = source
        return None

    def choose(self, schemas: Mapping[str, type[T]]) -> type[T]:
        """The schema of the tree's kind; any of them, and a mistake more, where it names none."""
        kind = self.tree.get("kind")
        if self.complete and (not isinstance(kind, str) or kind not in schemas):
            expected = " or ".join(repr(name) for name in schemas)
            sentence = f"missing, expected {expected}"
            if "kind" in self.tree:
                near = nearest_word(str(kind), list(schemas))
                sentence = f"found {describe(kind)}, expected {expected}{near}"
            parts = (self.source_of(("kind",)), "kind", sentence)
            self.mistakes.append(": ".join(part for part in parts if part))
            self.complete = False
        return schemas.get(str(kind), next(iter(schemas.values())))

    def result(self, schema: type[T]) -> T:
        """The validated tree; raises UserError with all mistakes."""
        if self.complete:
            validated = validate_tree(self.tree, schema)
            if isinstance(validated, BaseModel) and not self.mistakes:
                return validated
            if isinstance(validated, list):
                for mistake in validated:
                    parts = (self.source_of(mistake.path), dotted(mistake.path), mistake.sentence)
                    self.mistakes.append(": ".join(part for part in parts if part))
        if len(self.mistakes) == 1:
            raise UserError(self.mistakes[0])
        lines = "".join(f"\n  {mistake}" for mistake in self.mistakes)
        count = f"{len(self.mistakes)} mistakes in the configuration:"
        raise UserError(": ".join(part for part in (self.file, count) if part) + lines)

    def source_of(self, path: KeyPath) -> str:
        while path not in self.sources and path:
            path = path[:-1]
        return self.sources[path]


def _place(file: str, line: int | None) -> str:
    return f"{file}:{line}" if line is not None else file

"""YAML as plain values, with the line that each came from and every mistake in the text.

Scalars follow YAML 1.2, not the 1.1 that PyYAML defaults to, because 1.1 has traps for recipes:
there `1e-4` is a string, `on`, `off`, `yes` and `no` are booleans, `010` is 8, `1:30` is 90 and
`2024-01-01` is a date. Here the first is a float, booleans are `true` and `false` alone, `010` is
10, and the rest are strings. Underscores may group digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_NODES = 20_000  # an alias can name an alias: a few lines could otherwise unfold without end

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, (_pattern, _first) in _SCALARS.items():
        _first_characters = ["" if c == "\0" else c for c in _first]
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first_characters)


@dataclass
class YamlTree:
    """What a YAML text says: `value`, the line of every key path (from 1), and its mistakes.

    `mistakes` holds (line or None, key path or "", sentence). With a syntax error `value` is None
    and `readable` is False.
    """

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    mistakes: list[tuple[int | None, str, str]] = field(default_factory=list)
    readable: bool = True


def dotted(path: KeyPath) -> str:
    """The key path as it is written in an override: `stages.0.optimizer.lr`."""
    return ".".join(str(part) for part in path)


def parse_yaml(text: str) -> YamlTree:
    """The tree that `text` describes. Never raises: every mistake is in the result."""
    tree = YamlTree()
    try:
        root = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        tree.readable = False
        tree.mistakes.append((_error_line(error), "", f"not valid YAML: {_error_sentence(error)}"))
        return tree
    if root is not None:
        tree.value = _Builder(tree).build(root, ())
    return tree


def write_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back as the same value; keys keep their order."""
    # Escapes beyond ASCII, because U+0085 and U+2028 would be read back as line ends.
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=100))


class _Builder:
    """Turns the node graph of one document into values, noting lines and mistakes in `tree`."""

    def __init__(self, tree: YamlTree) -> None:
        self.tree = tree
        self.open: set[int] = set()
        self.num_nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.tree.lines.setdefault(path, node.start_mark.line + 1)
        self.num_nodes += 1
        if id(node) in self.open:
            return self.mistake(node, path, "an alias that contains itself")
        if self.num_nodes > MAX_NODES:
            if self.num_nodes == MAX_NODES + 1:
                self.mistake(node, path, f"more than {MAX_NODES} values once aliases are unfolded")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self.sequence(node, path)
            return self.scalar(node, path)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> Any:
        if node.tag != "tag:yaml.org,2002:map":
            return self.mistake(node, path, f"the tag {node.tag} is not supported")
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistake(key_node, path, "a key must be a plain name, not a list or mapping")
                continue
            key = key_node.value
            if key in values:
                first = self.tree.lines[(*path, key)]
                self.mistake(key_node, (*path, key), f"the key stands twice, first on line {first}")
                continue
            self.tree.lines[(*path, key)] = key_node.start_mark.line + 1
            values[key] = self.build(value_node, (*path, key))
        return values

    def sequence(self, node: yaml.SequenceNode, path: KeyPath) -> Any:
        if node.tag != "tag:yaml.org,2002:seq":
            return self.mistake(node, path, f"the tag {node.tag} is not supported")
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag == "tag:yaml.org,2002:str":
            return node.value
        convert = _CONVERT.get(node.tag)
        if convert is None:
            return self.mistake(node, path, f"the tag {node.tag} is not supported")
        try:
            return convert(node.value)
        except ValueError:
            return self.mistake(node, path, f"{node.value!r} does not fit its tag {node.tag}")

    def mistake(self, node: yaml.Node, path: KeyPath, sentence: str) -> None:
        self.tree.mistakes.append((node.start_mark.line + 1, dotted(path), sentence))


def _to_int(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)


def _to_float(text: str) -> float:
    word = text.lower()
    return float(word.replace(".", "") if word.endswith(("inf", "nan")) else word)


def _to_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_CONVERT: dict[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": _to_bool,
    "tag:yaml.org,2002:int": _to_int,
    "tag:yaml.org,2002:float": _to_float,
}


def _error_line(error: Exception) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark is not None else None


def _error_sentence(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark is not None else ""
        return ", ".join(part for part in (error.context, error.problem) if part) + where
    return " ".join(str(error).split())

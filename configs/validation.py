"""What is wrong between a plain tree and a pydantic schema, said in the key paths of the file.

pydantic's own locations carry union tags and type labels (`model.lalrm.width`); here they are taken
out again by walking the schema beside the location.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.yaml_tree import KeyPath, dotted

T = TypeVar("T", bound=BaseModel)

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "path_type": "a path",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "none_required": "null",
}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: where, and the sentence that says what was found and expected."""

    path: KeyPath
    sentence: str


def validate_tree(tree: Mapping[str, Any], schema: type[T]) -> T | list[Mistake]:
    """The validated config, or every mistake in the tree, in the order of the schema.

    Values are strict: text is never taken for a number, nor a number for text or for a boolean; a
    whole number serves as a float.
    """
    try:
        # JSON, because strict validation of it takes lists for tuples and text for paths and enums.
        return schema.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        mistakes: dict[KeyPath, list[str]] = {}
        for detail in error.errors(include_url=False):
            path, sentence = _explain(detail, schema, tree)
            sentences = mistakes.setdefault(path, [])
            if sentence not in sentences:
                sentences.append(sentence)
        return [Mistake(path, _join(sentences)) for path, sentences in mistakes.items()]


def nearest_key(path: KeyPath, schema: type[BaseModel]) -> str | None:
    """The valid dotted key most like `path`, or None when none is near.

    A sibling with a similar name comes first, then a similar name anywhere else in the schema.
    """
    keys = set(_dotted_keys(schema))
    wanted, last, parent = dotted(path), str(path[-1]), dotted(path[:-1])
    siblings = {
        key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == _star(parent, keys)
    }
    for match in difflib.get_close_matches(last, siblings, n=1, cutoff=0.6):
        return ".".join(part for part in (parent, match) if part)
    elsewhere: dict[str, list[str]] = {}
    for key in sorted(key for key in keys if "*" not in key):
        elsewhere.setdefault(key.rpartition(".")[2], []).append(key)
    names = difflib.get_close_matches(last, elsewhere, n=1, cutoff=0.75)
    candidates = elsewhere[names[0]] if names else []
    return next(iter(difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.0)), None)


def nearest_word(word: str, choices: list[str]) -> str:
    """A tail for a message, `; the nearest is 'x'`, or nothing when no choice is near."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]!r}" if near else ""


def describe(value: Any) -> str:
    """A value as a message shows it: short, and in YAML's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return (
            "a mapping with the keys " + ", ".join(map(str, value)) if value else "an empty mapping"
        )
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain(detail: Any, schema: type[BaseModel], tree: Any) -> tuple[KeyPath, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    path, owner, annotation = _walk(detail["loc"], schema)
    if kind == "extra_forbidden":
        near = nearest_key(path, schema)
        valid = ", ".join(owner.model_fields) if owner is not None else ""
        cure = f"the nearest valid key is {near}" if near else f"valid keys here: {valid or 'none'}"
        return path, f"unknown key; {cure}"
    if kind == "missing":
        return path, f"missing, expected {_type_words(annotation)}"
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        tags = ", ".join(_tags(annotation, key))
        return (*path, key), f"missing, expected one of {tags}" if tags else "missing"
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        near_tag = nearest_word(context["tag"], _tags(annotation, key))
        return (
            *path,
            key,
        ), f"found {context['tag']!r}, expected {context['expected_tags']}{near_tag}"
    found = describe(_at(tree, path, detail["input"]))
    if kind == "literal_error" or kind == "enum":
        near = nearest_word(str(detail["input"]), [str(choice) for choice in _choices(annotation)])
        return path, f"found {found}, expected {context['expected']}{near}"
    if kind in ("value_error", "assertion_error"):
        return path, f"{detail['msg'].partition(', ')[2]} (found {found})"
    expected = _EXPECTED.get(kind)
    if expected is None and detail["msg"].startswith("Input should be "):
        expected = detail["msg"].removeprefix("Input should be ")
    if expected is None:
        return path, f"found {found}: {detail['msg']}"
    return path, f"found {found}, expected {expected}"


def _walk(
    location: tuple[Any, ...], schema: type[BaseModel]
) -> tuple[KeyPath, type[BaseModel] | None, Any]:
    """The location without union tags, the model that holds its last key, and the type there."""
    path: list[str | int] = []
    owner: type[BaseModel] | None = None
    annotation: Any = schema
    for part in location:
        annotation = _unwrap(annotation)
        members = _members(annotation)
        if len(members) > 1:  # pydantic puts the tag, or the name of the type, into the location
            annotation = _pick(members, part)
            continue
        annotation = members[0] if members else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner = annotation
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
            path.append(part)
        elif annotation is not None and part == "[key]":
            continue
        else:
            annotation, owner = _item(annotation, part), None
            path.append(part)
    return tuple(path), owner, _unwrap(annotation)


def _unwrap(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union; None is left out, as pydantic leaves it out of locations."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    members = [_unwrap(member) for member in get_args(annotation) if member is not type(None)]
    return (
        [leaf for member in members for leaf in _members(member)] if len(members) == 1 else members
    )


def _pick(members: list[Any], label: Any) -> Any:
    for member in members:
        if getattr(member, "__name__", None) == label or str(member) == label:
            return member
        if isinstance(member, type) and issubclass(member, BaseModel):
            literals = (_choices(field.annotation) for field in member.model_fields.values())
            if any(label in choices for choices in literals):
                return member
    return None


def _item(annotation: Any, part: Any) -> Any:
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(part, int) and Ellipsis not in arguments:
        return arguments[part] if part < len(arguments) else None
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def _choices(annotation: Any) -> list[Any]:
    annotation = _unwrap(annotation)
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation]
    return [
        choice
        for member in _members(annotation)
        if member is not annotation
        for choice in _choices(member)
    ]


def _tags(annotation: Any, key: str) -> list[str]:
    fields = (
        getattr(member, "model_fields", {}).get(key) for member in _members(_unwrap(annotation))
    )
    return [str(tag) for field in fields if field is not None for tag in _choices(field.annotation)]


def _type_words(annotation: Any) -> str:
    if choices := _choices(annotation):
        return "one of " + ", ".join(map(str, choices))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    members = [
        names.get(member, getattr(member, "__name__", str(member)))
        for member in _members(annotation)
    ]
    return " or ".join(members)


def _dotted_keys(annotation: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Every dotted key of the schema; an index or a free key of a mapping is written `*`."""
    annotation = _unwrap(annotation)
    if depth > 12:
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield prefix + name
            yield from _dotted_keys(field.annotation, f"{prefix}{name}.", depth + 1)
        return
    members = _members(annotation)
    if len(members) > 1 or members[0] is not annotation:
        for member in members:
            yield from _dotted_keys(member, prefix, depth + 1)
        return
    if get_origin(annotation) in (list, tuple, dict):
        for argument in get_args(annotation):
            yield from _dotted_keys(argument, f"{prefix}*.", depth + 1)


def _star(parent: str, keys: set[str]) -> str:
    """`parent` with indices and free keys written as `*`, the way `_dotted_keys` writes them."""
    prefix = ""
    for part in parent.split(".") if parent else []:
        known = any(key == prefix + part or key.startswith(f"{prefix}{part}.") for key in keys)
        prefix += f"{part if known else '*'}."
    return prefix.rstrip(".")


def _at(tree: Any, path: KeyPath, default: Any) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return default
    return tree


def _join(sentences: list[str]) -> str:
    """One sentence from those of each alternative of a union: `found x, expected a or b`."""
    head = sentences[0].partition(", expected ")[0]
    tails = [sentence.partition(", expected ")[2] for sentence in sentences]
    if (
        len(sentences) > 1
        and all(tails)
        and all(s.startswith(f"{head}, expected ") for s in sentences)
    ):
        return f"{head}, expected {' or '.join(tails)}"
    return "; or ".join(sentences)

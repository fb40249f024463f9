"""Captions of scenes, from a JSON file."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from data.importers.json_files import read_json_object


def read_captions(path: Path) -> dict[str, str]:
    """Captions by scene name, white space evened out.

    A list of captions stands for its first, and a file's suffix after the name is left out: files made for
    RealEstate10K have entries such as {"KEY.mp4": ["text"]}. Raises UserError for anything that is no text.
    """
    captions: dict[str, str] = {}
    for name, value in read_json_object(path, "a caption for each scene's name").items():
        text = value[0] if isinstance(value, list) and value else value
        if not isinstance(text, str):
            raise UserError(f"{path}: the caption of {name!r} is {value!r}, expected text")
        captions[name.removesuffix(".mp4").removesuffix(".txt")] = " ".join(text.split())
    return captions

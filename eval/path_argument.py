"""The camera path that a command line asks for: a named path, several joined, or a file."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from data.camera_paths import PATHS, Segment, join_paths
from data.cameras import Cameras
from data.importers.path_files import load_camera_path

JOIN, PART = "+", ":"


def path_from_argument(
    text: str,
    base: Cameras,
    num_views: int,
    *,
    amplitude: float | int | None = None,
    easing: str = "linear",
    scale: float | int | None = None,
) -> Cameras:
    """`num_views` cameras from `base` on, along "NAME", "NAME:AMPLITUDE+NAME:AMPLITUDE", or a file's path.

    amplitude, easing: of named paths; `amplitude` of one without its own. scale: of a file's path, see
    `load_camera_path`. Raises UserError for an unknown name, and for options that have no effect.
    """
    if is_file(text):
        if amplitude is not None or easing != "linear":
            raise UserError(
                f"--amplitude and --easing are for named paths, not for the file {text}; scale its units with"
                " --path-scale"
            )
        return load_camera_path(text, base, num_views, scale=scale)
    if scale is not None:
        raise UserError(f"--path-scale is for paths from files, and {text!r} is a named path")
    segments = [_segment(part, amplitude) for part in text.split(JOIN)]
    return join_paths(segments, base, num_views, easing=easing)


def is_file(text: str) -> bool:
    """Whether a path argument means a file or folder and not a name; names come first."""
    if text.split(JOIN)[0].split(PART)[0] in PATHS:
        return False
    return "/" in text or Path(text).suffix != "" or Path(text).exists()


def _segment(text: str, amplitude: float | int | None) -> Segment:
    name, _, own = text.partition(PART)
    if not own:
        return Segment(name, amplitude)
    try:
        return Segment(name, float(own))
    except ValueError as error:
        raise UserError(
            f"camera path {text!r}: {own!r} is not a number; expected NAME{PART}AMPLITUDE, such as dolly:0.3"
        ) from error

"""A scene of Gaussians to and from a file, by the file's ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.errors import UserError
from models.gaussians import Gaussians
from models.scenes.glb import save_glb
from models.scenes.ply import load_ply, save_ply
from models.scenes.spz import load_spz, save_spz

READERS: dict[str, Callable[[Path], Gaussians]] = {".ply": load_ply, ".spz": load_spz}
WRITERS: dict[str, Callable[[Gaussians, Path], None]] = {
    ".ply": save_ply,
    ".spz": save_spz,
    ".glb": save_glb,
}


def load_scene(path: Path | str) -> Gaussians:
    """The scene in a PLY or SPZ file; raises UserError for another ending and as the readers do."""
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: scenes are read from {' and '.join(READERS)} files, not from"
            f" {path.suffix or 'one without an ending'}"
        )
    return reader(path)


def save_scene(gaussians: Gaussians, path: Path | str) -> None:
    """Writes an unbatched scene as PLY, SPZ or GLB; raises UserError for another ending and as the writers do."""
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise UserError(
            f"{path}: scenes are written as {', '.join(WRITERS)}, not as {path.suffix or 'a file without an ending'}"
        )
    writer(gaussians, path)

"""Cameras and points from images alone: pycolmap's SIFT, matching and incremental mapping.

COLMAP says nothing of its progress, so the work is handed to it in portions. (Its database must not be
watched with Python's sqlite3: two copies of SQLite in one process crash on each other's locks.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data.importers.posed_images import Progress

if TYPE_CHECKING:
    import pycolmap

MAX_FEATURES = 4096

MAX_EXHAUSTIVE_ORDERED = 40
"""Up to so many images every pair is matched even where they are known to follow each other."""

OVERLAP = 10
"""In a longer sequence, each image is matched with so many that follow, and some at doubling distances."""

PAIRS_A_PORTION = 64

Item = TypeVar("Item")


def structure_from_motion(
    images: Path,
    work: Path,
    names: Sequence[str],
    *,
    ordered: bool,
    seed: int,
    progress: Progress | None = None,
) -> tuple[pycolmap.Reconstruction | None, int]:
    """The largest model that the named images below `images` give (None where there is none), and how
    many separate models there were.

    work: a folder for the database. Images in one sub-folder share a camera (SIMPLE_RADIAL).
    ordered: names are in the order of a video.

    The same images and seed give bitwise the same model: features are found on all cores, which does
    not change them; matching and mapping, where the order of threads would, run on one.
    """
    database = work / "features.db"
    with _quiet():
        _find_features(database, images, names, progress)
        _match(database, work / "pairs.txt", _pairs(names, ordered), seed, progress)
        models = _place(database, images, work / "models", len(names), seed, progress)
    if not models:
        return None, 0
    return max(models, key=lambda m: (m.num_reg_images(), m.num_points3D())), len(models)


def _find_features(
    database: Path, images: Path, names: Sequence[str], progress: Progress | None
) -> None:
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    mode = pycolmap.CameraMode.PER_FOLDER
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, images, mode, list(names), reader)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = MAX_FEATURES
    done = 0
    for portion in _portions(names, 2 * (os.cpu_count() or 1)):
        pycolmap.extract_features(
            database, images, portion, mode, reader, extraction, pycolmap.Device.cpu
        )
        done += len(portion)
        if progress is not None:
            progress("find features", done, len(names))


def _match(
    database: Path,
    pairs_file: Path,
    pairs: Sequence[tuple[str, str]],
    seed: int,
    progress: Progress | None,
) -> None:
    import pycolmap

    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = 1
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = pairs_file
    done = 0
    for portion in _portions(pairs, PAIRS_A_PORTION):
        pairs_file.write_text("".join(f"{a} {b}\n" for a, b in portion), encoding="utf-8")
        pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)
        done += len(portion)
        if progress is not None:
            progress("match pairs", done, len(pairs))


def _place(
    database: Path,
    images: Path,
    output: Path,
    num_images: int,
    seed: int,
    progress: Progress | None,
) -> list[pycolmap.Reconstruction]:
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 3
    options.extract_colors = False
    options.num_threads = 1
    options.random_seed = seed
    options.mapper.num_threads = 1
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    num_placed = 2

    def one_more() -> None:
        nonlocal num_placed
        num_placed += 1
        if progress is not None:
            progress("place images", min(num_placed, num_images), num_images)

    pycolmap.set_random_seed(seed)
    models = pycolmap.incremental_mapping(
        database, images, output, options, next_image_callback=one_more
    )
    return list(models.values())


def _pairs(names: Sequence[str], ordered: bool) -> list[tuple[str, str]]:
    """The pairs of images to match: all of them, or those near each other in a long sequence."""
    if not ordered or len(names) <= MAX_EXHAUSTIVE_ORDERED:
        return list(combinations(names, 2))
    doubling = [2**k for k in range(len(names).bit_length())]
    steps = sorted({*range(1, OVERLAP + 1), *doubling})
    return [(a, names[i + s]) for i, a in enumerate(names) for s in steps if i + s < len(names)]


def _portions(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps COLMAP's log off the terminal: what matters becomes our own message."""
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level

"""SIFT features and their matches in a COLMAP database, by pycolmap, in portions that show progress.

COLMAP says nothing of how far it is, so it gets its work bit by bit. (Its database must not be watched
with Python's sqlite3 instead: two copies of SQLite in one process crash on each other's locks.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from data.importers.posed_images import Progress

PAIRS_A_PORTION = 64

Item = TypeVar("Item")


def find_features(
    database: Path,
    images: Path,
    names: Sequence[str],
    *,
    camera_model: str,
    one_camera_a_folder: bool,
    max_features: int,
    progress: Progress | None = None,
) -> None:
    """Makes a database with the features of the named images below `images`.

    camera_model: COLMAP's name of the lens model that cameras are entered with, guessed from EXIF.
    max_features: the strongest so many are kept in each image.
    one_camera_a_folder: images of a sub-folder share a camera; otherwise each has its own.

    Runs on all cores; their number does not change the features.
    """
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = camera_model
    modes = pycolmap.CameraMode
    mode = modes.PER_FOLDER if one_camera_a_folder else modes.PER_IMAGE
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, images, mode, list(names), reader)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = max_features
    done = 0
    for portion in _portions(names, 2 * (os.cpu_count() or 1)):
        pycolmap.extract_features(
            database, images, portion, mode, reader, extraction, pycolmap.Device.cpu
        )
        done += len(portion)
        if progress is not None:
            progress("find features", done, len(names))


def match_features(
    database: Path,
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int,
    lenses_known: bool = False,
    progress: Progress | None = None,
) -> None:
    """Matches and verifies the features of pairs of images.

    lenses_known: the database's focal lengths are exact. Otherwise a pair that fits some other lens a little better
        counts as taken with an unknown one, which makes the global mapper fail.

    Runs on one core: the order in which several would write changes what is built on the matches.
    """
    import pycolmap

    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = 1
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    if lenses_known:
        verification.min_E_F_inlier_ratio = 0.5
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = database.with_name("pairs.txt")
    done = 0
    for portion in _portions(pairs, PAIRS_A_PORTION):
        lines = "".join(f"{first} {second}\n" for first, second in portion)
        pairing.match_list_path.write_text(lines, encoding="utf-8")
        pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)
        done += len(portion)
        if progress is not None:
            progress("match pairs", done, len(pairs))


def all_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each image with each other, once."""
    return list(combinations(names, 2))


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Keeps COLMAP's log off the terminal: what matters becomes our own message."""
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def _portions(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])

"""Cameras and points from images alone: features, matches and pycolmap's incremental mapping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.importers.features import all_pairs, find_features, match_features, quiet_colmap
from data.importers.posed_images import Progress

if TYPE_CHECKING:
    import pycolmap

MAX_FEATURES = 4096

MAX_EXHAUSTIVE_ORDERED = 40
"""Up to so many images every pair is matched even where they are known to follow each other."""

OVERLAP = 10
"""In a longer sequence, each image is matched with so many that follow, and some at doubling distances."""


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

    The same images and seed give bitwise the same model, whatever the number of cores.
    """
    database = work / "features.db"
    with quiet_colmap():
        find_features(
            database,
            images,
            names,
            camera_model="SIMPLE_RADIAL",
            one_camera_a_folder=True,
            max_features=MAX_FEATURES,
            progress=progress,
        )
        match_features(database, _pairs(names, ordered), seed=seed, progress=progress)
        models = _place(database, images, work / "models", len(names), seed, progress)
    if not models:
        return None, 0
    return max(models, key=lambda m: (m.num_reg_images(), m.num_points3D())), len(models)


def _place(
    database: Path,
    images: Path,
    output: Path,
    num_images: int,
    seed: int,
    progress: Progress | None,
) -> list[pycolmap.Reconstruction]:
    """The separate models that incremental mapping builds."""
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
        return all_pairs(names)
    doubling = [2**k for k in range(len(names).bit_length())]
    steps = sorted({*range(1, OVERLAP + 1), *doubling})
    return [(a, names[i + s]) for i, a in enumerate(names) for s in steps if i + s < len(names)]

"""Cameras and points from images alone: features, matches and pycolmap's mappers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.importers.features import all_pairs, find_features, match_features, quiet_colmap
from data.importers.posed_images import Progress

if TYPE_CHECKING:
    import pycolmap

Mapper = Literal["incremental", "global"]

MAX_FEATURES = 4096

MAX_EXHAUSTIVE_ORDERED = 40
"""Up to so many images every pair is matched even where they are known to follow each other."""

MIN_MODEL_SIZE = 3

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
        match_features(database, image_pairs(names, ordered), seed=seed, progress=progress)
        models = place_images(
            database, images, work / "models", len(names), seed=seed, progress=progress
        )
    if not models:
        return None, 0
    return max(models, key=lambda m: (m.num_reg_images(), m.num_points3D())), len(models)


def place_images(
    database: Path,
    images: Path,
    output: Path,
    num_images: int,
    *,
    seed: int,
    mapper: Mapper = "incremental",
    refine_intrinsics: bool = True,
    progress: Progress | None = None,
) -> list[pycolmap.Reconstruction]:
    """The separate models that COLMAP builds of a database's matches, largest or not; none where it fails.

    mapper: "incremental" adds one image after another and leaves out what it can't place; "global" (GLOMAP)
        places all at once, which does better with short baselines and blurred images, but gives a pose also to
        images that share no point with the others: ask how many points an image sees.
    refine_intrinsics: False keeps focal lengths and distortion as the database has them.
    """
    import pycolmap

    pycolmap.set_random_seed(seed)
    if mapper == "global":
        models = pycolmap.global_mapping(
            database, images, output, _global_options(seed, refine_intrinsics)
        )
        return list(models.values())
    num_placed = 2

    def one_more() -> None:
        nonlocal num_placed
        num_placed += 1
        if progress is not None:
            progress("place images", min(num_placed, num_images), num_images)

    options = _incremental_options(seed, refine_intrinsics)
    models = pycolmap.incremental_mapping(
        database, images, output, options, next_image_callback=one_more
    )
    return list(models.values())


def _incremental_options(seed: int, refine_intrinsics: bool) -> pycolmap.IncrementalPipelineOptions:
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = MIN_MODEL_SIZE
    options.extract_colors = False
    options.num_threads = 1
    options.random_seed = seed
    options.mapper.num_threads = 1
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    options.ba_refine_focal_length = refine_intrinsics
    options.ba_refine_extra_params = refine_intrinsics
    options.mapper.abs_pose_refine_focal_length = refine_intrinsics
    options.mapper.abs_pose_refine_extra_params = refine_intrinsics
    return options


def _global_options(seed: int, refine_intrinsics: bool) -> pycolmap.GlobalPipelineOptions:
    import pycolmap

    options = pycolmap.GlobalPipelineOptions()
    options.min_model_size = MIN_MODEL_SIZE
    options.num_threads = 1
    options.random_seed = seed
    mapper = options.mapper
    mapper.num_threads = 1
    mapper.random_seed = seed
    mapper.rotation_averaging.random_seed = seed
    mapper.global_positioning.random_seed = seed
    mapper.global_positioning.use_gpu = False
    mapper.retriangulation.random_seed = seed
    mapper.bundle_adjustment.ceres.use_gpu = False
    mapper.bundle_adjustment.ceres.solver_options.num_threads = 1
    mapper.bundle_adjustment.refine_focal_length = refine_intrinsics
    mapper.bundle_adjustment.refine_extra_params = refine_intrinsics
    return options


def image_pairs(names: Sequence[str], ordered: bool) -> list[tuple[str, str]]:
    """The pairs of images to match: all of them, or those near each other in a long sequence."""
    if not ordered or len(names) <= MAX_EXHAUSTIVE_ORDERED:
        return all_pairs(names)
    doubling = [2**k for k in range(len(names).bit_length())]
    steps = sorted({*range(1, OVERLAP + 1), *doubling})
    return [(a, names[i + s]) for i, a in enumerate(names) for s in steps if i + s < len(names)]

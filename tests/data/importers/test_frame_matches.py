"""Features of frames against known shifts, and what the database is told of cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage import data

from configs.errors import UserError
from data.cameras import Cameras
from data.importers import frame_placement
from data.importers.frame_matches import MatchConfig, enlargement, match_frames
from data.importers.frame_placement import place_frames

SIZE = (96, 128)


@pytest.fixture(scope="module")
def shifted() -> torch.Tensor:
    """Three crops of one photograph, each 5 px to the right of and 3 px below the one before."""
    photo = torch.from_numpy(data.coffee()).movedim(-1, 0) / 255
    crops = [
        photo[:, 120 + 3 * i : 120 + 3 * i + SIZE[0], 180 + 5 * i : 180 + 5 * i + SIZE[1]]
        for i in range(3)
    ]
    return torch.stack(crops)


def cameras(
    count: int, focal: tuple[float, ...] = (100.0,), size: tuple[int, int] = SIZE
) -> Cameras:
    matrices = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    for view in range(count):
        matrices[view, 0, 0] = matrices[view, 1, 1] = focal[view % len(focal)]
        matrices[view, 0, 2], matrices[view, 1, 2] = size[1] / 2, size[0] / 2
    return Cameras(torch.eye(4, dtype=torch.float64).repeat(count, 1, 1), matrices, *size)


def test_matches_are_where_the_picture_moved_to(shifted: torch.Tensor) -> None:
    with match_frames(shifted, cameras(3), MatchConfig()) as found:
        assert found.enlargement == 3
        assert min(found.num_features()) > 50
        pairs = found.matches([(0, 1), (0, 2)])
        assert found.num_verified_pairs(30) == 3
    for (first, second), steps in zip(pairs, (1, 2), strict=True):
        assert len(first) > 50 and first.dtype == torch.float64
        moved = (first - second).median(dim=0).values
        assert moved.tolist() == pytest.approx([5 * steps, 3 * steps], abs=0.1)
        # By descriptors alone: some are wrong, and not hidden.
        off = (first - second - moved).norm(dim=-1)
        assert float((off < 0.5).double().mean()) > 0.8


def test_the_same_frames_give_the_same_matches(shifted: torch.Tensor) -> None:
    results = []
    for _ in range(2):
        with match_frames(shifted[:2], cameras(2), MatchConfig(), pairs=[(0, 1)]) as found:
            results += found.matches([(0, 1)])
            assert found.matches([(1, 0)])[0][0].shape == found.matches([(0, 1)])[0][1].shape
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_pairs_that_were_not_asked_for_have_no_matches(shifted: torch.Tensor) -> None:
    with match_frames(shifted, cameras(3), MatchConfig(), pairs=[(0, 1)]) as found:
        (first, _), (other, _) = found.matches([(0, 1), (1, 2)])
        assert len(first) > 50 and len(other) == 0


def test_the_database_has_the_cameras_own_intrinsics(shifted: torch.Tensor) -> None:
    """Frames of one lens share a camera; sizes and pixels are those of the enlarged frames."""
    import pycolmap

    with (
        match_frames(shifted, cameras(3, (100.0, 130.0)), MatchConfig(enlarge_below=192)) as found,
        pycolmap.Database.open(found.database) as entries,
    ):
        by_name = {image.name: image.camera_id for image in entries.read_all_images()}
        numbers = [by_name[name] for name in found.names]
        assert numbers[0] == numbers[2] != numbers[1]
        lens = entries.read_camera(numbers[1])
        assert (lens.height, lens.width) == (192, 256)
        assert lens.params.tolist() == [260, 260, 128, 96] and lens.has_prior_focal_length


@pytest.mark.parametrize(
    ("size", "factor"),
    [((64, 96), 4), ((128, 128), 2), ((256, 300), 1), ((720, 480), 1), ((16, 16), 4)],
)
def test_small_frames_are_enlarged_by_a_whole_factor(size: tuple[int, int], factor: int) -> None:
    assert enlargement(cameras(1, size=size), MatchConfig()) == factor


def test_frames_and_cameras_have_to_fit(shifted: torch.Tensor) -> None:
    with (
        pytest.raises(UserError, match=r"3 frames but 2 cameras"),
        match_frames(shifted, cameras(2), MatchConfig()),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"frames are 96x128 but .* for 48x64"),
        match_frames(shifted, replace(cameras(3), height=48, width=64), MatchConfig()),
    ):
        pass


def test_cameras_of_a_rendered_scene_are_found_with_a_zoom(
    room: tuple[np.ndarray, np.ndarray], room_cameras: Cameras
) -> None:
    """Half of the frames cropped to another field of view and size: known intrinsics, frame by frame."""
    photos = torch.from_numpy(room[0]).movedim(-1, 1)[:6] / 255
    frames, matrices = photos.clone(), room_cameras.intrinsics[:6].clone()
    for view in (1, 3, 5):
        part = photos[view : view + 1, :, 24:216, 32:288]
        frames[view] = torch.nn.functional.interpolate(part, (240, 320), mode="bicubic")[0]
        matrices[view, :2] *= 1.25
        matrices[view, :2, 2] = torch.tensor([160.0, 120.0])
    chosen = replace(room_cameras.select(range(6)), intrinsics=matrices)
    with match_frames(frames.clamp(0, 1), chosen, MatchConfig()) as found:
        placed = place_frames(found)
        again = place_frames(found)
    assert placed is not None and again is not None
    assert torch.equal(placed.cameras.world_to_camera, again.cameras.world_to_camera)
    assert placed.views == tuple(range(6)) and placed.num_points > 200
    assert torch.allclose(placed.cameras.intrinsics, matrices, atol=1e-9)
    paths = [c.relative_to(0).camera_to_world for c in (placed.cameras, chosen)]
    positions = [p[:, :3, 3] / p[:, :3, 3].norm(dim=-1).max() for p in paths]
    assert float((positions[0] - positions[1]).norm(dim=-1).max()) < 0.02
    turned = (paths[0][:, :3, :3].mT @ paths[1][:, :3, :3]).numpy()
    assert np.rad2deg(Rotation.from_matrix(turned).magnitude()).max() < 0.5
    # The first frame's median depth and the path's length tell the same unit.
    unit = float(placed.cameras.relative_to(0).positions.norm(dim=-1).max()) / placed.median_depth
    truth = float(chosen.relative_to(0).positions.norm(dim=-1).max()) / float(np.median(room[1][0]))
    assert unit == pytest.approx(truth, rel=0.25)


def test_the_incremental_mapper_has_its_turn_where_the_global_one_leaves_frames_out(
    room: tuple[np.ndarray, np.ndarray], room_cameras: Cameras, monkeypatch
) -> None:
    """At first it places all frames; then it is made to find nothing."""
    photos = torch.from_numpy(room[0]).movedim(-1, 1)[:4] / 255
    original = frame_placement.place_images
    turns = []

    def place(database, images, output, count, *, mapper, **options):
        turns.append(mapper)
        models = original(database, images, output, count, mapper=mapper, **options)
        if mapper == "global" and len(turns) > 1:
            return []
        return models

    monkeypatch.setattr(frame_placement, "place_images", place)
    with match_frames(photos, room_cameras.select(range(4)), MatchConfig()) as found:
        first = place_frames(found)
        assert turns == ["global"]
        second = place_frames(found)
        assert turns == ["global", "global", "incremental"]
    assert first is not None and second is not None
    assert first.views == second.views == (0, 1, 2, 3)


def test_a_stranger_is_not_placed_and_fog_is_nowhere(
    room: tuple[np.ndarray, np.ndarray], room_cameras: Cameras
) -> None:
    photos = torch.from_numpy(room[0]).movedim(-1, 1)[:5] / 255
    stranger = torch.from_numpy(data.rocket()[:240, :320]).movedim(-1, 0)[None] / 255
    frames = torch.cat([photos[:2], stranger, photos[2:]])
    chosen = room_cameras.select([0, 1, 1, 2, 3, 4])
    with match_frames(frames, chosen, MatchConfig()) as found:
        placed = place_frames(found)
    assert placed is not None and placed.views == (0, 1, 3, 4, 5)
    with match_frames(frames * 0 + 0.5, chosen, MatchConfig()) as found:
        assert place_frames(found) is None
        assert found.num_features() == [0] * 6 and found.num_verified_pairs(1) == 0

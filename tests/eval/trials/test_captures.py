"""Captures of a trial: those that are there, in their own proportions, and a hash of their cameras."""

from __future__ import annotations

import torch

from data.importers.nerfstudio import write_nerfstudio
from eval.trials.captures import find_captures, read_capture_views, size_with_long_side


def test_captures_are_found_or_left_out_by_name(clip, tmp_path) -> None:
    write_nerfstudio(clip, tmp_path / "here")
    (tmp_path / "empty").mkdir()
    found = find_captures([tmp_path / "nowhere", tmp_path / "here", tmp_path / "empty"])
    assert found.paths == (tmp_path / "here",) and found.left_out == ("nowhere", "empty")
    before = found.sha256
    file = tmp_path / "here/transforms.json"
    file.write_text(file.read_text() + " ")
    assert found.sha256 != before


def test_sizes_keep_their_proportions_and_are_never_enlarged(clip, tmp_path) -> None:
    write_nerfstudio(clip, tmp_path / "capture")  # 32x48
    assert size_with_long_side(tmp_path / "capture", 24) == (16, 24)
    assert size_with_long_side(tmp_path / "capture", 480) == (32, 48)


def test_views_are_the_first_along_the_path(clip, tmp_path) -> None:
    """Written in a mixed order, they come back as the camera went, from one end or the other."""
    path = clip.select(range(clip.num_path_frames))
    mixed = path.select([4, 0, 7, 2, 8, 1, 6, 3, 5])
    write_nerfstudio(mixed, tmp_path / "capture")
    found = read_capture_views(tmp_path / "capture", (32, 48), 5)
    assert found.source == "capture" and found.num_frames == 5
    ends = (range(5), range(8, 3, -1))
    off = [float((found.frames - path.frames[list(end)]).abs().max()) for end in ends]
    assert min(off) <= 0.51 / 255
    assert torch.equal(found.cameras.world_to_camera[0].float(), torch.eye(4))

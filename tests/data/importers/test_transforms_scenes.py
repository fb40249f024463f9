"""DL3DV's folders read back against the scene that was written: cameras, frames, sizes and distortion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.importers.distortion import Distortion
from data.importers.images import read_image, resize_and_crop, write_image
from data.importers.posed_scene import FrameFit, SceneRef
from data.importers.transforms_scenes import TransformsScenes
from data.left_out import LeftOut, Reason

FIT = FrameFit(48, 72)
SCENE = SceneRef("1K/0123abcd")


@pytest.fixture
def walk(make_walk):
    return make_walk(0, 9)


@pytest.fixture
def folder(tmp_path: Path, walk, write_transforms) -> Path:
    write_transforms(walk, tmp_path / SCENE.name)
    return tmp_path / SCENE.name


def edit(folder: Path, change) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def shrunken_copy(folder: Path, divisor: int) -> None:
    """`images_4` made smaller into images_{4 * divisor}."""
    target = folder / f"images_{4 * divisor}"
    target.mkdir()
    for path in (folder / "images_4").iterdir():
        picture = read_image(path)
        size = [side // divisor for side in picture.shape[-2:]]
        write_image(resize_and_crop(picture, *size)[0], target / path.name)


def test_cameras_and_frames_of_images_in_another_folder(tmp_path, folder, walk):
    """The file says images/ at 192x288, and lists frames backwards; they are in images_4/ at 48x72."""
    scenes = TransformsScenes(tmp_path)
    assert scenes.list_scenes() == [SCENE]
    scene = scenes.open(SCENE, FIT)
    torch.testing.assert_close(
        scene.world_to_camera, walk.cameras.world_to_camera, rtol=0, atol=1e-6
    )
    frames, intrinsics = scene.read([2, 8, 0], FIT)
    torch.testing.assert_close(frames, walk.frames[[2, 8, 0]], rtol=0, atol=1e-6)
    expected = walk.cameras.intrinsics[[2, 8, 0]]
    torch.testing.assert_close(intrinsics, expected, rtol=1e-7, atol=1e-6)


def test_the_smallest_copies_that_are_large_enough_are_taken(tmp_path, folder):
    shrunken_copy(folder, 2)

    def parent(fit: FrameFit, images: str | None = None) -> str:
        scene = TransformsScenes(tmp_path, images).open(SCENE, fit)
        return scene.read.images[0].path.parent.name

    assert parent(FrameFit(24, 36)) == "images_8"
    assert parent(FrameFit(24, 40)) == "images_4"
    assert parent(FrameFit(24, 36), "images_4") == "images_4"
    with pytest.raises(LeftOut, match=r"images_4: frames are 48x72, smaller than 56x72") as told:
        parent(FrameFit(56, 72))
    assert told.value.reason == Reason.SMALL
    assert parent(FrameFit(56, 72, enlarge=True)) == "images_4"


def test_lens_distortion_is_undone(tmp_path, folder, walk):
    """A pixel that the lens moved shows what the pinhole camera of the returned intrinsics sees there."""
    lens = Distortion(k1=-0.12, k2=0.03, p1=0.002)
    edit(folder, lambda content: content.update(k1=lens.k1, k2=lens.k2, p1=lens.p1))
    scene = TransformsScenes(tmp_path).open(SCENE, FIT)
    for path in (folder / "images_4").iterdir():
        ramp = torch.linspace(0, 1, 72).expand(3, 48, 72)
        write_image(ramp, path)
    (frame,), (matrix,) = scene.read([0], FIT)
    row, column = 40, 60
    pixel = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64)
    direction = (pixel - matrix[:2, 2]) / matrix.diagonal()[:2]
    true = walk.cameras.intrinsics[0]
    lens_pixel = lens.distort(direction) * true.diagonal()[:2] + true[:2, 2]
    expected = (float(lens_pixel[0]) - 0.5) / 71
    assert float(frame[0, row, column]) == pytest.approx(expected, abs=2 / 255)
    moved = abs(float(lens_pixel[0]) - float(pixel[0]))
    assert moved > 0.5, "the lens must matter for the test to"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("fl_x") and c.pop("fl_y"), "has no focal length"),
        (lambda c: c.update(fl_x=0.0), "focal length fl_x is 0 px"),
        (lambda c: c["frames"][2].pop("transform_matrix"), "frame 2 has no 'transform_matrix'"),
        (lambda c: c["frames"][2]["transform_matrix"][0].__setitem__(0, 1e999), "frame 2|NaN|inf"),
        (lambda c: c["frames"][2]["transform_matrix"][0].__setitem__(0, 7.0), "not orthonormal"),
        (lambda c: c.update(frames=[]), "expected a non-empty list"),
        (lambda c: c.update(k1=-9.0), "folds|too strong"),
    ],
)
def test_broken_files_are_left_out(tmp_path, folder, change, message):
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        TransformsScenes(tmp_path).open(SCENE, FIT).read([0], FIT)


def test_text_that_is_no_json_and_missing_images_are_left_out(tmp_path, folder):
    scenes = TransformsScenes(tmp_path)
    (folder / "images_4" / "frame_00003.png").unlink()
    with pytest.raises(LeftOut, match="1 of 9 images are missing; the first is frame_00003.png"):
        scenes.open(SCENE, FIT)
    with pytest.raises(LeftOut, match=r"has no folder of images \(images_2\)") as told:
        TransformsScenes(tmp_path, "images_2").open(SCENE, FIT)
    assert told.value.reason == Reason.NO_MEDIA
    (folder / "transforms.json").write_text("{")
    with pytest.raises(LeftOut, match="not valid JSON") as told:
        scenes.open(SCENE, FIT)
    assert told.value.reason == Reason.CAMERAS


def test_scenes_are_found_at_any_depth_up_to_three(tmp_path, walk, write_transforms):
    for name in ("b", "1K/a", "1K/c/nerfstudio", "1K/2/3/too_deep", ".cache/x", "__MACOSX/y"):
        write_transforms(walk, tmp_path / name)
    (tmp_path / "empty").mkdir()
    found = [ref.name for ref in TransformsScenes(tmp_path).list_scenes()]
    assert found == ["1K/a", "1K/c/nerfstudio", "b"]
    with pytest.raises(UserError, match="has no scenes"):
        TransformsScenes(tmp_path / "empty").list_scenes()

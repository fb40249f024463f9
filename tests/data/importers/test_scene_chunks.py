"""Chunks as pixelSplat's tools write them, read back against the scenes that went in."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.importers.posed_scene import FrameFit, SceneRef
from data.importers.scene_chunks import ChunkScenes, load_chunk
from data.left_out import LeftOut, Reason

FIT = FrameFit(48, 72)


@pytest.fixture
def walks(make_walk):
    return {"cc": make_walk(0, 9), "aa": make_walk(1, 9), "bb": make_walk(2, 9)}


def change(folder: Path, edit) -> None:
    """Edits the first scene of the first chunk."""
    chunk = torch.load(folder / "000000.torch", weights_only=True)
    edit(chunk[0])
    torch.save(chunk, folder / "000000.torch")


def test_each_scene_has_its_frames_and_cameras(tmp_path, walks, write_chunks):
    write_chunks(walks, tmp_path)
    scenes = ChunkScenes(tmp_path)
    found = scenes.list_scenes()
    assert [(ref.name, ref.place) for ref in found] == [
        ("aa", "000000.torch"),
        ("cc", "000000.torch"),
        ("bb", "000001.torch"),
    ]
    for ref in found:
        scene, walk = scenes.open(ref, FIT), walks[ref.name]
        torch.testing.assert_close(
            scene.world_to_camera, walk.cameras.world_to_camera, rtol=0, atol=1e-6
        )
        frames, intrinsics = scene.read([8, 0, 3], FIT)
        torch.testing.assert_close(frames, walk.frames[[8, 0, 3]], rtol=0, atol=1e-6)
        expected = walk.cameras.intrinsics[[8, 0, 3]]
        torch.testing.assert_close(intrinsics, expected, rtol=1e-6, atol=1e-5)


def test_jpeg_as_the_tools_store_it(tmp_path, walks, write_chunks):
    write_chunks(walks, tmp_path, image_format="JPEG")
    frames, _ = ChunkScenes(tmp_path).open(SceneRef("bb", "000001.torch"), FIT).read([4], FIT)
    assert (frames[0] - walks["bb"].frames[4]).abs().mean() < 0.02


def test_chunks_without_an_index_tell_their_scenes(tmp_path, walks, write_chunks):
    write_chunks(walks, tmp_path)
    expected = ChunkScenes(tmp_path).list_scenes()
    (tmp_path / "index.json").unlink()
    assert ChunkScenes(tmp_path).list_scenes() == expected
    os.link(tmp_path / "000000.torch", tmp_path / "000009.torch")
    with pytest.raises(UserError, match="2 scenes come twice"):
        ChunkScenes(tmp_path).list_scenes()


@pytest.mark.parametrize(
    ("edit", "reason", "message"),
    [
        (lambda s: s["cameras"][3].fill_(torch.nan), Reason.CAMERAS, "camera 3 has NaN"),
        (lambda s: s["cameras"][3, 0].fill_(0), Reason.CAMERAS, "camera 3: focal length is"),
        (lambda s: s["cameras"][3, 6].add_(0.1), Reason.CAMERAS, "camera 3 has a rotation"),
        (lambda s: s.update(cameras=s["cameras"][:, :17]), Reason.CAMERAS, "18 columns"),
        (lambda s: s.pop("timestamps"), Reason.CAMERAS, "expected 'timestamps'"),
        (lambda s: s["timestamps"].zero_(), Reason.CAMERAS, "times have to increase"),
        (lambda s: s["images"].pop(), Reason.MISSING, "8 images for 9 cameras"),
        (lambda s: s.pop("images"), Reason.MISSING, "no images for 9 cameras"),
        (lambda s: s.update(key="zz"), Reason.MISSING, "is not in the chunk"),
    ],
)
def test_what_is_wrong_with_a_scene_is_told(tmp_path, walks, write_chunks, edit, reason, message):
    write_chunks(walks, tmp_path)
    change(tmp_path, edit)
    with pytest.raises(LeftOut, match=message) as told:
        ChunkScenes(tmp_path).open(SceneRef("cc", "000000.torch"), FIT)
    assert told.value.reason == reason
    ChunkScenes(tmp_path).open(SceneRef("aa", "000000.torch"), FIT)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(40, dtype=torch.uint8), "image 2: not an image"),
        (torch.zeros(40), "image 2: expected the bytes"),
        ("frame.jpg", "image 2: expected the bytes"),
    ],
)
def test_images_that_do_not_decode_are_named(tmp_path, walks, write_chunks, image, message):
    write_chunks(walks, tmp_path)
    change(tmp_path, lambda scene: scene["images"].__setitem__(2, image))
    scene = ChunkScenes(tmp_path).open(SceneRef("cc", "000000.torch"), FIT)
    scene.read([1], FIT)
    with pytest.raises(UserError, match=message):
        scene.read([2], FIT)


def test_damaged_chunks_are_told_and_nothing_in_them_is_run(tmp_path, walks, write_chunks):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    write_chunks(walks, tmp_path)
    path = tmp_path / "000000.torch"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(LeftOut, match=r"000000.torch: can't be loaded") as told:
        ChunkScenes(tmp_path).open(SceneRef("cc", "000000.torch"), FIT)
    assert told.value.reason == Reason.UNDECODABLE
    torch.save([Runs()], path, pickle_module=pickle)
    with pytest.raises(UserError, match="can't be loaded"):
        load_chunk(path)
    assert not (tmp_path / "ran").exists()
    for wrong in ({"key": "a"}, [1], torch.zeros(3)):
        torch.save(wrong, path)
        with pytest.raises(UserError, match="expected a list of scenes"):
            load_chunk(path)
    with pytest.raises(UserError, match="no such chunk"):
        load_chunk(tmp_path / "none.torch")


def test_bad_indices_are_one_sentence(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"a": ["000000.torch", 3]}))
    with pytest.raises(UserError, match="expected a chunk's file name"):
        ChunkScenes(tmp_path).list_scenes()
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(UserError, match="hold no scenes"):
        ChunkScenes(tmp_path).list_scenes()

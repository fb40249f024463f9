"""The comparison of a scene from one image with the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.procedural.clips import make_clip
from eval.images.metrics import psnr
from eval.reconstruction import render_scene
from eval.scores.image_to_scene import METHODS, OURS, image_to_scene
from models.pipeline import ImageToScenePipeline


@pytest.fixture(scope="module")
def clip(scene):
    return make_clip(7, scene)


def test_every_method_is_held_against_the_same_views(
    clip, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ImageToScenePipeline.from_pretrained(pipeline_folder)
    truth = pipeline.reconstruct(clip)
    given = []
    generate = pipeline.generate

    def spy(photos, paths, seeds, **options):
        given.append((photos[0], paths[0]))
        return generate(photos, paths, seeds, **options)

    monkeypatch.setattr(pipeline, "generate", spy)
    result = image_to_scene(clip, pipeline, seed=2)
    photo, path = given[0]
    assert torch.equal(photo.frame, clip.frames[0])
    assert torch.equal(path.world_to_camera, clip.cameras.world_to_camera[:9])

    assert set(result.frames) == set(METHODS)
    assert result.groups == {"path": list(range(1, 9)), "beside": [9, 10, 11, 12]}
    assert torch.equal(result.frames["still"], clip.frames[:1].expand_as(clip.frames))
    # On a plane at the input's median depth, which is 1, the first view is the input itself.
    assert torch.allclose(result.frames["median_depth"][0], clip.frames[0], atol=1e-4)
    assert torch.equal(result.frames["video"][:9], result.scene.video)
    assert result.frames["video"][9:].isnan().all() and "beside" not in result.psnr["video"]
    assert torch.allclose(
        result.frames["ceiling"], render_scene(truth, clip.cameras).frames, atol=1e-5
    )
    assert torch.allclose(
        result.frames[OURS], render_scene(result.scene.gaussians, clip.cameras).frames, atol=1e-5
    )
    for name, group in (("still", "path"), (OURS, "beside"), ("ceiling", "path")):
        views = result.groups[group]
        expected = psnr(result.frames[name][views], clip.frames[views]).mean()
        assert result.psnr[name][group] == pytest.approx(float(expected), abs=1e-4)
        assert 0 <= result.ssim[name][group] <= 1

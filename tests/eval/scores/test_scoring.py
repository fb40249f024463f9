"""Scores of one clip against direct computations, and means taken by hand."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from eval.images import metrics
from eval.reconstruction import Models, load_models
from eval.scores import baselines, scoring
from train.fitting.fit import FitConfig
from train.fitting.starts import StartConfig

CONFIG = scoring.BaselineConfig(
    fit_start=StartConfig(num_gaussians=300), fit_settings=FitConfig(iterations=3)
)


@pytest.fixture(scope="module")
def models(weights) -> Models:
    return load_models(weights["autoencoder"], weights["lalrm"])


@pytest.fixture(scope="module")
def result(clip, models) -> scoring.ClipResult:
    return scoring.score_clip(clip, models, CONFIG, torch.Generator().manual_seed(0), 2)


def test_groups_follow_the_clip_and_the_rule_for_far(result):
    groups = result.score.groups
    assert groups["seen"] == list(range(9)) and groups["unseen"] == [9, 10]
    warped = result.score.psnr["median_depth"]
    assert groups["far"] == [view for view in (9, 10, 11, 12) if warped[view] < 20]


def test_far_views_are_those_below_the_limit():
    psnr = [None, None, 25.0, 19.9, 20.0, 3.0]
    assert scoring.far_views([2, 3, 4, 5], psnr, 20.0) == [3, 5]
    assert scoring.far_views([2, 3], None, 20.0) == []


def test_baselines_say_nothing_where_they_do_not_apply(result):
    psnr = result.score.psnr
    for name in ("copy", "median_depth"):
        assert psnr[name][:9] == [None] * 9 and None not in psnr[name][9:]
    assert psnr["autoencoder"][9:] == [None] * 4 and None not in psnr["autoencoder"][:9]
    assert None not in psnr["lalrm"] and None not in psnr["fit"]


def test_values_equal_a_direct_computation(clip, models, result):
    given = clip.frames[:9]
    decoded = models.autoencoder.decode(models.autoencoder.encode(given[None]))[0]
    expected = -10 * torch.log10((decoded - given).square().mean(dim=(1, 2, 3)))
    assert result.score.psnr["autoencoder"][:9] == pytest.approx(expected.tolist(), abs=1e-3)

    targets = clip.cameras.select([9, 10, 11, 12])
    depths = clip.depth[:9].flatten(1).median(dim=1).values
    warped = baselines.median_depth(given, clip.cameras.select(range(9)), targets, depths)
    found = metrics.ssim(warped, clip.frames[9:]).tolist()
    assert result.score.ssim["median_depth"][9:] == pytest.approx(found, abs=1e-4)


def test_the_same_clip_scores_the_same(clip, models, result):
    again = scoring.score_clip(clip, models, CONFIG, torch.Generator().manual_seed(0), 2)
    assert again.score.line() == result.score.line()


def test_baselines_can_be_left_out(clip, models):
    none = scoring.BaselineConfig(
        copy_nearest=False, median_depth=False, autoencoder=False, fit=False
    )
    score = scoring.score_clip(clip, models, none, torch.Generator()).score
    assert list(score.psnr) == ["lalrm"]
    assert score.groups["far"] == [] and score.groups["unseen"] == [9, 10, 11, 12]
    summary = scoring.summarise([score.line()])
    assert summary["baselines"]["fit"]["psnr"] == dict.fromkeys(scoring.GROUPS)


def test_a_clip_of_a_wrong_number_of_frames_is_the_users_error(clip, models):
    with pytest.raises(UserError, match="8 frames"):
        scoring.score_clip(clip.select(range(8)), models, CONFIG, torch.Generator())


def test_summary_averages_views_over_all_clips():
    def line(ours, copied, groups):
        measured = {"lalrm": ours, "copy": copied}
        errors = dict.fromkeys(scoring.GROUPS)
        numbers = {"num_gaussians": 100 * len(ours), "depth_error": errors}
        return {"psnr": measured, "ssim": measured, "groups": groups, **numbers}

    first = line([30.0, 20.0, 10.0], [None, 8.0, 6.0], {"seen": [0], "unseen": [1, 2], "far": [2]})
    second = line([24.0, 18.0], [None, 4.0], {"seen": [0], "unseen": [1], "far": []})
    summary = scoring.summarise([first, {"error": "damaged"}, second])
    assert summary["psnr"] == {"seen": 27.0, "unseen": 16.0, "far": 10.0}
    assert summary["baselines"]["copy"]["ssim"] == {"seen": None, "unseen": 6.0, "far": 6.0}
    assert summary["views"] == {"seen": 2, "unseen": 3, "far": 1} and summary["clips"] == 2
    assert summary["num_gaussians"] == 250
    with pytest.raises(UserError, match="no clip"):
        scoring.summarise([{"error": "damaged"}])


def test_models_that_do_not_fit_each_other_are_refused(weights, tmp_path):
    with pytest.raises(UserError, match="reads latents of 8 channels, .* have 4"):
        load_models(weights["other_autoencoder"], weights["lalrm"])
    with pytest.raises(UserError, match="no such weights folder"):
        load_models(weights["autoencoder"], tmp_path / "nowhere")
    with pytest.raises(UserError, match="lalrm"):
        load_models(weights["autoencoder"], weights["autoencoder"])

"""The 3D consistency score, small: it falls where views disagree and stays where they only differ from the truth.

The full validation is a command (eval.consistency_validation); its findings are in eval/validation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from eval.consistency.fit import SceneFitConfig, fit_scene
from eval.consistency.measure import ConsistencyConfig, ConsistencyResult, measure_consistency
from eval.consistency.perturbations import perturb
from eval.consistency.scores import ScenePrediction, join_predictions, remarks, summarise
from eval.consistency.trial import read_capture_views
from eval.consistency.views import held_out_views, shuffled_cameras
from eval.images.image_scores import ImageScores
from eval.images.metrics import psnr
from eval.reconstruction import render_scene
from eval.scores.measured import NotAvailable

CAPTURES = Path(__file__).resolve().parents[3].parent / "shared/scenes"
QUICK = SceneFitConfig(passes=12)
CONFIG = ConsistencyConfig(fit=QUICK, lower_bound=False, seeds=(0,))
HELD_OUT = CONFIG.model_copy(update={"input_weight": 0.0})


@pytest.fixture(scope="module")
def moving() -> Clip:
    """9 views of 32x48 whose camera goes far enough to tell depth by."""
    scene = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0, travel=(0.4, 0.6))
    return make_clip(31, scene)


def measured(clip: Clip, config: ConsistencyConfig, **options) -> ConsistencyResult:
    result = measure_consistency(clip, config, **options)
    assert isinstance(result, ConsistencyResult)
    return result


@pytest.fixture(scope="module")
def clean(moving) -> ConsistencyResult:
    """The unchanged views with both bounds."""
    return measured(moving, CONFIG.model_copy(update={"lower_bound": True}), reference=moving)


@pytest.mark.parametrize("kind", ["shift", "warp", "swap", "flicker"])
def test_it_falls_steadily_as_views_lose_consistency(moving, clean, kind):
    scores = [clean.score.generated.held_out_psnr]
    for level in (3, 5):
        result = measured(perturb(moving, kind, level), HELD_OUT)
        scores.append(result.score.generated.psnr)
    assert scores[0] > scores[1] + 0.5 > scores[2] + 1.5


def test_it_falls_where_the_input_disagrees_though_the_rest_agrees(moving, clean):
    changed = measured(perturb(moving, "input_shift", 5), CONFIG).score.generated
    before = clean.score.generated
    assert before.psnr > changed.psnr + 1
    assert before.input["psnr"] > changed.input["psnr"] + 4
    assert changed.held_out_psnr > before.held_out_psnr - 1.5  # which is why the input is judged


@pytest.mark.parametrize(("kind", "level"), [("rescaled", 5), ("mirrored", 1)])
def test_it_stays_for_views_that_differ_from_the_truth_together(moving, clean, kind, level):
    changed = measured(perturb(moving, kind, level), HELD_OUT).score.generated
    assert changed.psnr == pytest.approx(clean.score.generated.held_out_psnr, abs=0.5)


def test_the_truth_has_no_say_in_the_score(moving):
    """Another scene altogether scores as that scene, whatever the reference shows."""
    scene = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0)
    quick = HELD_OUT.model_copy(update={"fit": SceneFitConfig(passes=2)})
    alone = measured(moving, quick).score
    beside = measured(moving, quick, reference=make_clip(5, scene)).score
    assert beside.generated == alone.generated
    assert isinstance(alone.upper, NotAvailable) and "reference" in alone.upper.why
    assert isinstance(beside.upper, ScenePrediction) and beside.upper != beside.generated


def test_bounds_place_the_score(clean):
    score = clean.score
    assert score.upper == score.generated
    assert score.place == pytest.approx(1)
    assert score.lower.psnr < score.generated.psnr - 2
    assert score.gain_db == pytest.approx(score.generated.psnr - score.lower.psnr)


def test_held_out_psnr_is_that_of_a_scene_fitted_to_the_other_views(clean):
    """Against the parts, put together by hand."""
    clip, fitted = clean.clip, [0, 1, 3, 4, 5, 7, 8]
    assert clean.judged == [2, 6]
    gaussians = fit_scene(clip, fitted, QUICK, seed=0)
    drawn = render_scene(gaussians, clip.cameras.select([2, 6])).frames
    assert torch.equal(drawn, clean.drawn)
    values = clean.score.generated.held_out.metrics["psnr"]
    assert values == pytest.approx(psnr(drawn, clip.frames[[2, 6]]).tolist())


def test_held_out_views_are_not_looked_at(moving, clean):
    spoilt = replace(moving, frames=moving.frames.clone())
    spoilt.frames[[2, 6]] = 1 - spoilt.frames[[2, 6]]
    prepared = replace(clean.clip, frames=spoilt.frames)
    fitted, quick = [0, 1, 3, 4, 5, 7, 8], SceneFitConfig(passes=2)
    first, other = fit_scene(clean.clip, fitted, quick, 0), fit_scene(prepared, fitted, quick, 0)
    assert torch.equal(first.means, other.means)


def test_the_same_numbers_for_any_number_of_threads(moving):
    quick = HELD_OUT.model_copy(update={"fit": SceneFitConfig(passes=2)})
    lines, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            lines.append(measured(moving, quick).score.line())
    finally:
        torch.set_num_threads(before)
    assert lines[0] == lines[1]


def test_seeds_judge_other_views_and_are_averaged(moving):
    quick = CONFIG.model_copy(update={"fit": SceneFitConfig(passes=2), "seeds": (0, 1)})
    score = measured(moving, quick).score
    assert score.generated.held_out.views == [2, 6, 3, 7]
    assert len(score.seed_psnr) == 2
    assert score.generated.held_out_psnr == pytest.approx(sum(score.seed_psnr) / 2)


def test_the_first_seed_alone_judges_the_input_view(moving):
    quick = CONFIG.model_copy(update={"fit": SceneFitConfig(passes=2)})
    one, two = (
        measured(moving, quick.model_copy(update={"seeds": s})).score for s in ((0,), (0, 1))
    )
    assert two.generated.input == one.generated.input
    assert two.generated.held_out_psnr != one.generated.held_out_psnr


def test_the_default_seeds_hold_out_every_view_once():
    config = ConsistencyConfig()
    held_out = [
        view for seed in config.seeds for view in held_out_views(24, config.held_out_every, seed)
    ]
    assert sorted(held_out) == list(range(1, 23))


def test_lines_are_json_and_say_why_a_number_is_missing(clean, moving):
    line = json.loads(json.dumps(clean.score.line()))
    assert line["psnr"] == round(clean.score.generated.psnr, 4)
    assert line["held_out"]["views"] == [2, 6] and len(line["held_out"]["psnr"]) == 2
    assert line["upper"]["psnr"] > line["lower"]["psnr"]
    quick = HELD_OUT.model_copy(update={"fit": SceneFitConfig(passes=1)})
    line = measured(moving, quick).score.line()
    for name, words in (("upper", "reference"), ("lower", "lower_bound"), ("input", "share")):
        assert words in line[name]["not_available"]
    assert "reference" in line["place"]["not_available"]


def test_cameras_of_other_views_are_remarked_on(moving):
    wrong = replace(moving, cameras=shuffled_cameras(moving.cameras, 7))
    score = measured(wrong, HELD_OUT.model_copy(update={"lower_bound": True})).score
    assert any("the cameras are not theirs" in said for said in remarks(score))


def test_views_without_overlap_are_not_scored(moving):
    apart = moving.cameras.world_to_camera.clone()
    turn = torch.eye(4)
    for view in range(9):
        angle = torch.tensor(2 * torch.pi * view / 9)
        turn[0, 0] = turn[2, 2] = angle.cos()
        turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
        apart[view] = turn
    narrow = moving.cameras.intrinsics * torch.tensor([4.0, 4.0, 1.0])[:, None]
    narrow[:, :2, 2] = moving.cameras.intrinsics[:, :2, 2]
    cameras = replace(moving.cameras, world_to_camera=apart, intrinsics=narrow)
    result = measure_consistency(replace(moving, cameras=cameras), CONFIG)
    assert isinstance(result, NotAvailable) and "too little in common" in result.why


def test_a_device_that_is_not_there_is_told(moving):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    fit = QUICK.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match="no CUDA GPU"):
        measure_consistency(moving, CONFIG.model_copy(update={"fit": fit}))


def test_still_cameras_are_scored_and_remarked_on(moving):
    still = replace(moving.cameras, world_to_camera=torch.eye(4).repeat(9, 1, 1))
    quick = HELD_OUT.model_copy(update={"fit": SceneFitConfig(passes=2)})
    score = measured(replace(moving, cameras=still), quick).score
    assert score.travel == 0
    assert any("do not leave their place" in said for said in remarks(score))


def test_reference_of_another_length_is_refused(moving):
    with pytest.raises(UserError, match="9 frames, but the reference has 8"):
        measure_consistency(moving, CONFIG, reference=moving.select(range(8)))


def prediction(held_out: list[float], of_input: float | NotAvailable) -> ScenePrediction:
    return ScenePrediction(
        ImageScores([2, 6], {"psnr": held_out, "lpips_alex": NotAvailable("no weights")}),
        of_input if isinstance(of_input, NotAvailable) else {"psnr": of_input, "lpips_alex": 0.1},
        {"psnr": 40.0},
        0.25,
    )


def test_the_input_view_has_its_share_of_the_score():
    assert prediction([20.0, 30.0], 13.0).psnr == pytest.approx(0.75 * 25 + 0.25 * 13)
    assert prediction([20.0, 30.0], NotAvailable("unseen")).psnr == 25
    assert isinstance(prediction([20.0, 30.0], 13.0).scores()["lpips_alex"], NotAvailable)
    both = join_predictions([prediction([20.0, 30.0], 13.0), prediction([24.0, 26.0], 17.0)])
    assert both.held_out.metrics["psnr"] == [20.0, 30.0, 24.0, 26.0]
    assert both.input["psnr"] == 15


def test_summaries_are_means_over_the_clips_that_have_a_score(clean):
    line = clean.score.line()
    other = json.loads(json.dumps(line))
    other["psnr"] += 2
    other["upper"] = other["place"] = {"not_available": "no reference"}
    summary = summarise([line, other, {"not_available": "too little in common"}])
    assert summary["clips"] == 2 and summary["left_out"] == {"too little in common": 1}
    assert summary["psnr"] == {"mean": pytest.approx(line["psnr"] + 1), "clips": 2}
    assert summary["upper_psnr"] == {"mean": line["upper"]["psnr"], "clips": 1}
    assert summary["place"] == {"mean": 1.0, "clips": 1}
    held_out = line["held_out"]["psnr"]
    assert summary["held_out_psnr"]["mean"] == pytest.approx(sum(held_out) / 2, abs=1e-4)
    assert "not_available" in summary["ms_ssim"]
    assert summarise([{"not_available": "nothing"}])["clips"] == 0


def test_what_makes_a_score_easy_is_remarked_on(clean):
    assert remarks(clean.score) == []
    score = replace(
        clean.score,
        copy_psnr=60.0,
        sharpness={"generated": 0.1, "input": 0.4},
        motion={"generated": 0.01, "reference": 0.1},
        travel=0.0,
    )
    said = " ".join(remarks(score))
    assert all(words in said for words in ("60.0 dB", "25% of the input", "10% as much", "depth"))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="each once"):
        ConsistencyConfig(seeds=(0, 0))
    with pytest.raises(ValueError, match="expected cpu, cuda"):
        SceneFitConfig(device="gpu0")


@pytest.mark.slow
def test_it_falls_on_a_real_capture():
    folder = CAPTURES / "assyrian_panel17"
    if not (folder / "transforms.json").is_file():
        pytest.skip(f"no capture {folder}")
    clip = read_capture_views(folder, (48, 72), 12)
    scores = [measured(perturb(clip, "shift", n), HELD_OUT).score.generated.psnr for n in (0, 3, 5)]
    assert scores[0] > 22
    assert scores[0] > scores[1] + 1 > scores[2] + 2

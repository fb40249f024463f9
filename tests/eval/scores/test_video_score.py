"""The score of the video model: known videos get known scores, and runs can be repeated and continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from configs.loader import load_config
from data.clips import Clip
from data.procedural.config import SceneConfig
from data.procedural.path_pairs import make_path_pair
from eval.clips.groups import ClipMeasuresConfig
from eval.images import metrics
from eval.score import main
from eval.scores import video_score_pictures, video_scoring
from eval.scores.scored_clips import PathPairs, read_index
from eval.scores.video_groups import VideoGroups
from eval.scores.video_score import VideoScoreConfig
from eval.scores.video_score_report import example_scenes
from eval.scores.video_scoring import METHODS, PathFrames, score_pair, summarise
from models.stopwatch import Stopwatch

ROOT = Path(__file__).resolve().parents[3]
SEEDS = [500, 501, 502]
SCENE = SceneConfig(
    height=32, width=48, num_frames=9, num_near=0, num_far=0, supersampling=1, travel=(0.3, 0.8)
)
MEASURES = {
    "motion_share", "two_way_choice", "matched_minus_crossed_db", "psnr", "ssim", "lpips",
    "standard_error",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CELL_WIDTH", 32), ("MIN_HEIGHT", 32), ("NUM_COLUMNS", 2)):
            patch.setattr(video_score_pictures, name, value)
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Path:
    """Three scenes in batches of two, two denoising steps, weights at random."""
    folder = tmp_path_factory.mktemp("recipe")
    index = {"seeds": SEEDS, "scene": SCENE.model_dump(mode="json")}
    (folder / "index.json").write_text(json.dumps(index))
    path = folder / "recipe.yaml"
    path.write_text(
        f"kind: video\nautoencoder: {pipeline_folder / 'autoencoder'}\n"
        f"base: {pipeline_folder / 'video_base'}\nbranches: {pipeline_folder / 'camera_branches'}\n"
        f"lalrm: {pipeline_folder / 'lalrm'}\ndata: {folder / 'index.json'}\n"
        f"sampling: {{steps: 2}}\nbatch_size: 2\nout: {folder / 'out'}\n"
    )
    return path


@pytest.fixture(scope="module")
def out(recipe: Path) -> Path:
    """The folder of a whole run."""
    assert main([str(recipe)]) == 0
    return recipe.parent / "out"


@pytest.fixture(scope="module")
def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def pair() -> tuple[Clip, Clip]:
    return make_path_pair(SEEDS[0], SCENE)


def test_summary_has_the_same_keys_for_the_video_and_every_baseline(summary) -> None:
    assert set(summary["baselines"]) == {"still", "autoencoder", "true_frames"}
    scene = summary["image_to_scene"]
    assert set(scene["baselines"]) == {"still", "median_depth", "ceiling"}
    assert set(summary) >= MEASURES and set(scene) == MEASURES | {"baselines"}
    for row in (*summary["baselines"].values(), *scene["baselines"].values()):
        assert set(row) == MEASURES and set(row["standard_error"]) == MEASURES - {"standard_error"}
    assert (summary["scenes"], summary["clips"], summary["failed"]) == (3, 6, {})
    assert set(summary["by_frame"]["psnr"]) == set(METHODS)
    assert len(summary["by_frame"]["crossed_psnr"]["video"]) == SCENE.num_frames
    assert {"sample video", "measure", "pictures"} <= set(summary["seconds_per_scene"])
    assert summary["images"]["psnr"]["clips"] == 6 and "camera" not in summary
    assert summary["identity"]["format"] == "3"


def test_baselines_have_the_scores_that_they_must_have(summary, pair) -> None:
    still, truth = summary["baselines"]["still"], summary["baselines"]["true_frames"]
    assert still["motion_share"] == pytest.approx(0, abs=0.02)
    assert (still["two_way_choice"], still["matched_minus_crossed_db"]) == (0.5, 0.0)
    assert truth["motion_share"] == pytest.approx(1, abs=0.1)
    assert (truth["two_way_choice"], truth["psnr"], truth["ssim"]) == (1.0, 60.0, 1.0)
    assert still == summary["image_to_scene"]["baselines"]["still"]
    own = make_path_pair(SEEDS[0], SCENE)[0]
    error = (own.frames[1:] - own.frames[:1]).square().mean(dim=(1, 2, 3))
    lines = read_lines(summary["config"]["out"])
    assert lines[0]["psnr"]["still"][1:] == pytest.approx((-10 * error.log10()).tolist(), abs=1e-3)


def test_every_clip_has_a_line_and_every_scene_its_pictures(out, summary) -> None:
    lines = read_lines(out)
    assert [(x["clip"], x["scene"], x["path"]) for x in lines[:3]] == [
        (0, 0, "own"), (1, 0, "mirrored"), (2, 1, "own"),
    ]  # fmt: skip
    assert lines[3]["source"] == "path_pair/00000501/mirrored"
    names = {path.name for path in (out / "pictures").iterdir()}
    assert names == {f"000{n}.{kind}" for n in range(3) for kind in ("png", "mp4")}
    page = (out / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3 and 'src="http' not in page
    assert "not available" in page and "Scenes that could not be scored" not in page


def test_the_video_that_is_scored_is_the_models_own(out, recipe, pair) -> None:
    from data.importers.photo import Photo
    from eval.reconstruction import render_scene
    from eval.scores.score_kinds import create_score
    from train.camera_agreement import frame_psnr
    from train.randomness import derive_seed

    score = create_score(recipe, [])
    own = pair[0]
    photo = Photo(own.frames[0], own.cameras.select([0]), own.source)
    seed = derive_seed("video score", 0, 0)
    scene = score.pipeline(photo, own.cameras, seed=seed, sampling=score.config.sampling)
    line = read_lines(out)[0]
    expected = frame_psnr(scene.video, own.frames).tolist()
    assert line["psnr"]["video"] == pytest.approx(expected, abs=0.01)
    drawn = render_scene(scene.gaussians, own.cameras).frames
    assert line["psnr"]["scene"] == pytest.approx(
        metrics.psnr(drawn, own.frames).tolist(), abs=0.01
    )


@pytest.mark.parametrize("num_kept", [1, 5])
def test_a_run_cut_off_in_a_batch_goes_on_to_the_same_bytes(
    out, recipe, tmp_path, num_kept
) -> None:
    whole = (out / "clips.jsonl").read_bytes()
    shutil.copytree(out, tmp_path / "cut")
    kept = b"".join(whole.splitlines(keepends=True)[:num_kept])
    (tmp_path / "cut" / "clips.jsonl").write_bytes(kept + b'{"clip": 1, "sou')
    assert main([str(recipe), f"out={tmp_path / 'cut'}"]) == 0
    assert (tmp_path / "cut" / "clips.jsonl").read_bytes() == whole
    for path in (out / "pictures").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / "pictures" / path.name).read_bytes()


def test_the_bare_base_makes_one_video_for_both_paths(recipe, tmp_path, summary) -> None:
    bare = tmp_path / "bare"
    assert main([str(recipe), "branches=null", "num_scenes=1", f"out={bare}"]) == 0
    found = json.loads((bare / "summary.json").read_text())
    assert (found["two_way_choice"], found["matched_minus_crossed_db"]) == (0.5, 0.0)
    assert found["identity"]["branches"] == "none" != summary["identity"]["branches"]
    assert found["standard_error"]["psnr"] is None
    with pytest.raises(UserError, match=r"other branches\)"):
        main([str(recipe), f"out={bare}"])


def test_further_groups_leave_the_rest_as_it_is(out, recipe, tmp_path) -> None:
    further = tmp_path / "further"
    fast = [
        "consistency.fit.passes=1",
        "consistency.lower_bound=false",
        "consistency.input_weight=0",
    ]
    groups = "metrics=[images,tsed,consistency]"
    torch.jit.script(torch.nn.Flatten()).save(tmp_path / "network.pt")
    sets = [f"sets.fvd_network={tmp_path / 'network.pt'}", "sets.fvd_size=8"]
    assert main([str(recipe), "num_scenes=1", f"out={further}", groups, *fast, *sets]) == 0
    plain, more = read_lines(out)[:2], read_lines(further)
    common = {"motion_share", "chose_own", "psnr", "crossed_psnr", "ssim", "lpips", "images"}
    for one, other in zip(plain, more, strict=True):
        assert common < set(one) and {"tsed", "consistency", "bounds"} < set(other)
        for name in common:
            assert one[name] == other[name]
        assert set(other["bounds"]["true_frames"]) == {"tsed"}
        assert other["tsed"]["pairs"] == 8 and other["consistency"]["num_views"] == 9
    found = json.loads((further / "summary.json").read_text())
    assert {"tsed", "consistency", "bounds"} <= set(found) and set(found) >= MEASURES
    assert {"tsed", "consistency", "set features"} <= set(found["seconds_per_scene"])
    assert found["sets"]["fvd"]["value"] > 0 and found["sets"]["fvd"]["samples"] == 2
    assert "weights of FID and KID" in found["sets"]["fid"]["not_available"]
    assert found["num_gaussians"] == more[0]["num_gaussians"]
    names = {path.name for path in (further / "pictures").iterdir()}
    assert {"0000_own_scene.png", "0000_mirrored_scene.png"} <= names
    page = (further / "report.html").read_text()
    assert "Further measures of the generated videos" in page and "3D consistency" in page
    assert "All clips as sets" in page


def test_the_groups_measure_the_generated_video_against_the_truth(pair) -> None:
    frames = dict.fromkeys(METHODS, pair[0].frames.flip(0).contiguous())
    config = ClipMeasuresConfig(metrics=("images",))
    (found, measured) = VideoGroups(config).measure(
        PathFrames(pair[0], frames, 10), Stopwatch(torch.device("cpu")), lambda words: None
    )
    expected = metrics.psnr(frames["video"], pair[0].frames).tolist()
    assert found["images"]["psnr"]["per_view"] == pytest.approx(expected, abs=1e-3)
    assert measured is not None and "bounds" not in found
    dark = {**frames, "video": torch.zeros_like(pair[0].frames)}
    (found, measured) = VideoGroups(config).measure(
        PathFrames(pair[0], dark, 10), Stopwatch(torch.device("cpu")), lambda words: None
    )
    assert "are black" in found["images"]["not_available"] and measured is None


def test_a_scene_that_cannot_be_made_becomes_marked_rows(
    recipe, tmp_path, monkeypatch, capsys
) -> None:
    load = PathPairs.load

    def fail(self: PathPairs, number: int, num_threads: int) -> tuple[Clip, Clip]:
        if number == 0:
            raise UserError("no room")
        return load(self, number, num_threads)

    monkeypatch.setattr(PathPairs, "load", fail)
    assert main([str(recipe), "num_scenes=2", f"out={tmp_path / 'out'}"]) == 2
    lines = read_lines(tmp_path / "out")
    assert [line.get("error") for line in lines] == ["no room", "no room", None, None]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scenes"] == 1 and len(summary["failed"]) == 2
    assert "no room" in capsys.readouterr().out
    with pytest.raises(UserError, match="no scene could be scored"):
        summarise(lines[:2])


def test_weights_that_are_missing_are_told_with_their_cure(recipe, tmp_path) -> None:
    recipes = {"base": "video_base", "branches": "video_camera", "lalrm": "reconstruction"}
    for key, trained_by in recipes.items():
        with pytest.raises(
            UserError,
            match=rf"none: no such folder; it should hold the .*: name another.*/{trained_by}\.yaml",
        ):
            main([str(recipe), f"{key}={tmp_path / 'none'}", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_scenes_of_another_size_are_refused(recipe, tmp_path) -> None:
    large = SCENE.model_copy(update={"height": 48})
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"seeds": [1], "scene": large.model_dump(mode="json")}))
    with pytest.raises(UserError, match="48x48.*trained on 32x48"):
        main([str(recipe), f"data={index}"])
    with pytest.raises(UserError, match=r"no such file; expected an index of seeds \(\.json\)$"):
        main([str(recipe), f"data={tmp_path / 'none.json'}"])
    with pytest.raises(
        UserError, match="is a folder; .* `prepare generated --images .* --paths own`"
    ):
        main([str(recipe), f"data={tmp_path}"])


def test_the_committed_recipe_pins_its_scenes_in_full() -> None:
    config = load_config(ROOT / "configs/eval/tiny_video.yaml", [], VideoScoreConfig)
    assert (config.base.name, config.branches and config.branches.name) == (
        "video_base",
        "video_camera",
    )
    path = ROOT / config.data
    index = read_index(path)
    assert len(set(index.seeds)) == 64
    assert set(json.loads(path.read_text())["scene"]) == set(SceneConfig.model_fields)


def test_lpips_is_kept_where_its_weights_are_there(pair, monkeypatch) -> None:
    def distance(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return (frames - truth).abs().mean(dim=(1, 2, 3))

    frames = dict.fromkeys(METHODS, pair[0].frames.flip(0))
    both = tuple(PathFrames(clip, frames, 10) for clip in pair)
    without = score_pair((both[0], both[1]))
    monkeypatch.setattr(video_scoring.metrics, "lpips", distance)
    lines = score_pair((both[0], both[1]))
    assert without[0]["lpips"] is None and summarise(without)["lpips"] is None
    expected = distance(frames["video"], pair[0].frames).tolist()
    assert lines[0]["lpips"]["video"] == pytest.approx(expected, abs=1e-4)
    assert summarise(lines)["not_available"] == {} and summarise(without)["not_available"]


def test_summary_averages_frames_paths_and_scenes() -> None:
    def line(share: float | None, chose: float, psnr: list[float], crossed: list[float]) -> Any:
        values = {"psnr": psnr, "crossed_psnr": crossed, "ssim": psnr, "lpips": psnr}
        measured = {name: dict.fromkeys(METHODS, row) for name, row in values.items()}
        shares = {"motion_share": share, "chose_own": chose}
        measured["num_gaussians"] = len(psnr)
        return measured | {name: dict.fromkeys(METHODS, row) for name, row in shares.items()}

    scenes = [
        line(0.5, 1.0, [60, 20, 30], [60, 20, 20]),
        line(None, 0.0, [60, 10, 10], [60, 20, 20]),
        {"error": "no room"},
        {"error": "no room"},
        line(1.0, 1.0, [60, 30, 30], [60, 10, 10]),
        line(0.0, 1.0, [60, 20, 20], [60, 10, 10]),
    ]
    found = summarise(scenes)
    assert found["motion_share"] == 0.5 and found["two_way_choice"] == 0.75
    assert found["psnr"] == found["ssim"] == found["lpips"] == 21.25
    assert found["matched_minus_crossed_db"] == 6.25
    # Scenes have -2.5 and 15 dB: half their difference.
    assert found["standard_error"]["matched_minus_crossed_db"] == 8.75
    assert found["by_frame"]["psnr"]["video"] == [60, 20, 22.5] and found["num_gaussians"] == 3


def test_examples_show_no_scene_twice() -> None:
    for count in range(1, 14):
        scenes: list[Any] = [({"scene": n}, {}) for n in range(count)]
        shown = [s[0]["scene"] for part in example_scenes(scenes).values() for s in part]
        assert shown == sorted(set(shown)) and shown[0] == 0 and shown[-1] == count - 1


def read_lines(folder: str | Path) -> list[dict[str, Any]]:
    text = (Path(folder) / "clips.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]

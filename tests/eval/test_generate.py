"""The `generate` command from the outside, with tiny random models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, intrinsics_from_fov
from data.importers.nerfstudio import read_nerfstudio
from data.importers.path_files import load_camera_path
from data.importers.path_json import save_camera_path
from data.importers.video import iterate_video
from eval import generate
from eval.generate_run import list_jobs
from eval.pages.generated_outputs import FILES
from eval.path_argument import path_from_argument
from eval.reconstruction import load_models
from models.bundled_weights import TINY_AUTOENCODER, TINY_LALRM, TINY_PIPELINE
from models.pipeline import ImageToScenePipeline
from models.scenes.ply import load_ply
from models.video.clip_poses import ClipPoses

BASE = Cameras(torch.eye(4)[None], intrinsics_from_fov(45.0, 32, 48)[None], 32, 48)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small videos of the scene; everything else as users have it."""
    monkeypatch.setattr("eval.pages.flythrough.PICTURE_HEIGHT", 32)
    monkeypatch.setattr("eval.pages.flythrough.FPS", 2)


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(np.ascontiguousarray(data.astronaut()[::4, ::3])).save(tmp_path / "me.jpg")
    return tmp_path / "me.jpg"


@pytest.fixture
def run(pipeline_folder, tmp_path):
    """Runs the command on a pipeline of random weights; returns its output folder."""

    def generate_into(name: str, *arguments: object) -> Path:
        out = tmp_path / name
        command = [*arguments, "--pipeline", pipeline_folder, "--out", out]
        assert generate.main([str(word) for word in command]) == 0
        return out

    return generate_into


def test_a_photo_becomes_all_that_is_promised(run, photo, capsys):
    out = run("scene", photo, "--path", "dolly_zoom", "--amplitude", 0.2, "--easing", "smooth")
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    images = {f"clip/images/{number:05d}.png" for number in range(9)}
    assert written == {*FILES, *images, "report.html"}
    assert str(out / "report.html") in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_gaussians"] == load_ply(out / "scene.ply").num_gaussians == 9 * 16 * 24
    assert len(list(iterate_video(out / "video.mp4"))) == metrics["num_frames"] == 9
    assert set(metrics["seconds"]) >= {"load models", "sample video", "reconstruct"}
    expected = make_path("dolly_zoom", load_first(out), 9, 0.2, easing="smooth")
    clip = read_nerfstudio(out / "clip", 32, 48)
    assert torch.allclose(clip.cameras.intrinsics.float(), expected.intrinsics, rtol=1e-4)
    page = (out / "report.html").read_text()
    assert "28 mm" in page and "dolly_zoom" in page


def load_first(out: Path) -> Cameras:
    """The first camera of what was generated, as its own file has it."""
    views = json.loads((out / "camera_path.json").read_text())["views"]
    lens = torch.tensor(views[0]["intrinsics"], dtype=torch.float32)
    return Cameras(torch.eye(4)[None], lens[None], 32, 48)


def test_a_written_path_can_be_used_again_and_gives_the_same(run, photo):
    first = run("first", photo, "--path", "orbit", "--frames", 17)
    again = run("again", photo, "--path", first / "camera_path.json", "--frames", 17)
    assert (first / "scene.ply").read_bytes() == (again / "scene.ply").read_bytes()
    assert json.loads((first / "metrics.json").read_text())["clips"] == [[0, 9], [8, 17]]


def test_files_are_those_of_the_folder_where_the_user_stands(
    pipeline_folder, photo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert generate.main(["me.jpg", "--pipeline", str(pipeline_folder), "--steps", "1"]) == 0
    assert (tmp_path / "runs" / "generate" / "me_orbit" / "scene.ply").is_file()
    load_models(TINY_AUTOENCODER, TINY_LALRM)  # the bundled ones are not looked for here


def test_several_images_get_a_folder_each(run, photo, tmp_path):
    (tmp_path / "other").mkdir()
    Image.open(photo).rotate(180).save(tmp_path / "other" / "me.png")
    out = run("two", photo, tmp_path / "other" / "me.png", "--batch", 2, "--steps", 1)
    assert {path.name for path in out.iterdir()} == {"me", "me_2"}
    scenes = [load_ply(out / name / "scene.ply") for name in ("me", "me_2")]
    assert not torch.allclose(scenes[0].means, scenes[1].means)


def test_samples_are_jobs_with_seeds_and_names_of_their_own(pipeline_folder, photo, tmp_path):
    pipeline = ImageToScenePipeline.from_pretrained(pipeline_folder)
    words = [str(photo), str(photo), "--samples", "2", "--seed", "5"]
    jobs = list_jobs(generate.build_parser().parse_args(words), pipeline)
    assert [(job.seed, job.folder) for job in jobs] == [
        (5, "me_seed5"), (6, "me_seed6"), (5, "me_seed5_2"), (6, "me_seed6_2")
    ]  # fmt: skip
    (job,) = list_jobs(generate.build_parser().parse_args([str(photo)]), pipeline)
    assert (job.seed, job.folder) == (0, ".")


def test_a_preview_is_a_picture_of_the_video(run, photo, tmp_path):
    run("scene", photo, "--preview", tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.size == (6 * 48, 32)


def test_list_paths_names_paths_and_formats_and_needs_no_image(capsys):
    assert generate.main(["--list-paths"]) == 0
    told = capsys.readouterr().out
    for word in ("dolly_zoom", "crane", "spiral", "realestate10k", "transforms.json", "smooth"):
        assert word in told


def test_an_existing_folder_is_left_alone(run, photo, tmp_path):
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists.*--out"):
        run("scene", photo)
    assert [path.name for path in (tmp_path / "scene").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "orbti"], "orbit"),
        (["--path", "none.json"], "none.json"),
        (["--path", "dolly:x"], "'x' is not a number"),
        (["--path", "orbit", "--path-scale", "2"], "--path-scale is for paths from files"),
        (["--amplitude", "1000"], "amplitude of camera path 'orbit' is 1000"),
        (["--easing", "bouncy"], "easing"),
        (["--frames", "12"], "has 12 views.*9 or 17"),
        (["--steps", "30"], "steps is 30"),
        (["--camera-guidance", "-1"], "--camera-guidance is -1"),
        (["--focal", "0"], "focal length is 0 mm"),
        (["--prompt", "a cat"], "no text encoder"),
        (["--device", "gpu7"], "--device is 'gpu7'"),
        (["--lalrm", "nowhere"], "nowhere: no such folder"),
        (["--pipeline", "nowhere"], "pipeline.json is missing"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(run, photo, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run("scene", photo, *arguments) if "--pipeline" not in arguments else generate.main(
            [str(photo), "--out", str(tmp_path / "scene"), *arguments]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["me.jpg"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_offload_without_an_accelerator_is_refused(run, photo):
    with pytest.raises(UserError, match="this machine has none"):
        run("scene", photo, "--offload", "model")


def test_what_is_not_an_image_is_one_sentence_and_leaves_nothing(run, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match="text.jpg is not an image"):
        run("scene", tmp_path / "text.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]


def test_full_memory_is_told_with_what_would_help(run, photo, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("models.pipeline.ImageToScenePipeline.generate", full)
    with pytest.raises(UserError, match="--batch 1, or --one-by-one, or --offload model"):
        run("scene", photo, "--batch", 2)


def test_joined_paths_go_on_from_each_other():
    joined = path_from_argument("dolly:0.3+pan:20", BASE, 17)
    assert float(joined.positions[-1, 2]) == pytest.approx(0.3, abs=1e-5)
    assert float(joined.positions[8, 2]) == pytest.approx(0.3, abs=1e-5)
    assert torch.allclose(
        joined.world_to_camera[-1, :3, :3],
        make_path("pan", BASE, 2, 20).world_to_camera[-1, :3, :3],
        atol=1e-5,
    )
    plain = path_from_argument("crane", BASE, 9, amplitude=0.5, easing="smooth")
    assert torch.equal(
        plain.world_to_camera, make_path("crane", BASE, 9, 0.5, easing="smooth").world_to_camera
    )


def test_a_path_from_a_file_is_scaled_if_asked(tmp_path):
    save_camera_path(make_path("truck", BASE, 9, 0.4), tmp_path / "path.json")
    half = path_from_argument(str(tmp_path / "path.json"), BASE, 17, scale=2)
    assert float(half.positions[-1, 0]) == pytest.approx(0.2, abs=1e-5)
    same = load_camera_path(tmp_path / "path.json", BASE, 17)
    assert torch.equal(
        path_from_argument(str(tmp_path / "path.json"), BASE, 17).world_to_camera,
        same.world_to_camera,
    )
    with pytest.raises(UserError, match="--amplitude and --easing are for named paths"):
        path_from_argument(str(tmp_path / "path.json"), BASE, 17, amplitude=1)


def test_the_bundled_pipeline_names_the_bundled_folders():
    content = json.loads((TINY_PIPELINE / "pipeline.json").read_text())
    assert content["parts"]["autoencoder"] == "autoencoder"
    assert (TINY_PIPELINE / content["parts"]["lalrm"]).is_dir()


def test_the_report_says_where_the_cameras_were_found(run, photo, monkeypatch, capsys):
    def stray(frames, cameras):
        moved = cameras.world_to_camera.clone()
        moved[1:, 0, 3] += 0.1
        line = {"r_err_deg": 3.21, "r_err_deg_deviation": 0.5, "t_err": {"not_available": "x"},
                "t_err_deviation": None, "explained": 0.9}  # fmt: skip
        return ClipPoses(replace(cameras, world_to_camera=moved), "went astray", line)

    monkeypatch.setattr("eval.generate_run.pose_estimator", {"auto": stray}.__getitem__)
    out = run(
        "scene", photo, "--path", "truck", "--amplitude", 0.2, "--poses", "auto", "--steps", 1
    )
    assert "frames 0 to 8: went astray" in capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    assert [line["used"] for line in metrics["poses"]] == ["estimated"]
    asked = make_path("truck", load_first(out), 9, 0.2).world_to_camera
    written = load_camera_path(out / "camera_path.json", load_first(out), 9).world_to_camera
    assert torch.allclose(written[1:, 0, 3], asked[1:, 0, 3] + 0.1, atol=1e-5)
    page = (out / "report.html").read_text()
    assert "3.21 +- 0.50" in page and "? +- ?" in page and "Frames 0 to 8: went astray." in page


def test_poses_are_measured_where_that_is_asked_for(run, photo):
    """A video of random weights shows no scene: the commanded poses stay, and that is said."""
    out = run("scene", photo, "--poses", "estimated", "--steps", 1)
    metrics = json.loads((out / "metrics.json").read_text())
    (line,) = metrics["poses"]
    assert line["used"] == "commanded" and "estimate poses" in metrics["seconds"]
    assert any("kept, unchecked" in note for note in metrics["notes"])


def test_a_long_prompt_makes_a_name_that_a_disk_takes():
    label = generate._path_label("\N{GRINNING FACE}a tower, " * 40)
    assert label.startswith("_a_tower__") and len(label.encode()) < 255

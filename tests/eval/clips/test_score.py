"""`score CLIP`: one line a clip, the same bytes every time, bad input told, nothing missing shown as a number."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import pytest
import torch

from configs.errors import UserError
from data.importers.images import write_image
from data.importers.nerfstudio import write_nerfstudio
from data.importers.path_json import save_camera_path
from data.importers.video import write_video
from eval.clips import pictures
from eval.images.metrics import psnr
from eval.score import main
from eval.scores.measured import KEY

FAST = (
    "consistency.max_height=16",
    "consistency.fit.passes=1",
    "consistency.lower_bound=false",
    "camera.matching.enlarge_most=2",
    "tsed.matching.enlarge_most=2",
    "photometric.alignment.keyframes=2",
    "photometric.alignment.iterations=2",
    "photometric.alignment.pixels=256",
)


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CELL_WIDTH", 64), ("VIDEO_HEIGHT", 32), ("NUM_COLUMNS", 2)):
            patch.setattr(pictures, name, value)
        yield


@pytest.fixture(scope="module")
def path_clip(clip):
    return clip.select(range(clip.num_path_frames))


@pytest.fixture(scope="module")
def noisy(path_clip):
    noise = torch.randn(path_clip.frames.shape, generator=torch.Generator().manual_seed(0))
    return (path_clip.frames + 0.05 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def files(path_clip, noisy, tmp_path_factory):
    """Three clips in `clips`, the real frames of each in `truth`, and the cameras of all in `path.json`."""
    folder = tmp_path_factory.mktemp("files")
    for name, frames in (("a", noisy), ("b", path_clip.frames), ("c", noisy.flip(1))):
        one = path_clip.select(range(9))
        write_nerfstudio(type(one)(frames, one.cameras, name, 9), folder / "clips" / name)
        write_nerfstudio(one, folder / "truth" / name)
    save_camera_path(path_clip.cameras, folder / "path.json")
    return folder


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]


def score_images(files, out, *more) -> int:
    truth = ("--reference", str(files / "truth"))
    return main([str(files / "clips"), *truth, "--metrics", "images", "--out", str(out), *more])


def test_all_groups_from_one_command(files, tmp_path, noisy, path_clip, capsys):
    command = [str(files / "clips" / "a"), "--reference", str(files / "truth" / "a"), *FAST]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    (line,) = lines_of(tmp_path / "one")
    assert list(line)[:5] == ["clip", "source", "frames", "size", "notes"]
    assert list(line)[5:] == ["images", "camera", "tsed", "photometric", "consistency"]
    stored = ((noisy * 255).round() / 255, (path_clip.frames * 255).round() / 255)
    assert line["images"]["psnr"]["mean"] == pytest.approx(float(psnr(*stored).mean()), abs=1e-3)
    assert line["tsed"]["pairs"] == 8 and line["camera"]["frames"] == 9
    assert line["consistency"]["num_views"] == 9 and KEY in line["consistency"]["lower"]

    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["clips"] == 1 and summary["failed"] == {}
    assert {"clips", "settings", "lpips_alex", "frames_network"} <= set(summary["identity"])
    assert summary["config"]["kind"] == "clips" and summary["config"]["seed"] == 0
    assert summary["environment"]["packages"]["torch"] == torch.__version__
    assert {"images", "structure from motion", "consistency"} <= set(summary["seconds_per_clip"])

    page = (tmp_path / "one" / "report.html").read_text()
    assert 'src="http' not in page and "data:video/mp4;base64," in page
    assert page.count("data:image/png;base64,") >= 2
    told = capsys.readouterr().out
    entries = [e for g in line.values() if isinstance(g, dict) for e in g.values()]
    missing = [e[KEY] for e in entries if isinstance(e, dict) and set(e) == {KEY}]
    assert len(missing) > 3 and all(why in unescape(page) for why in missing)
    assert "not available" in told and not re.search(r"\bnan\b", told, re.IGNORECASE)

    assert main([*command, "--out", str(tmp_path / "two")]) == 0
    first, second = (tmp_path / name / "clips.jsonl" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_what_is_missing_is_said_and_never_a_number(files, tmp_path, noisy):
    video = tmp_path / "video.mp4"
    write_video(noisy, video, 8)
    command = [str(video), "--out", str(tmp_path / "out")]
    with pytest.raises(
        UserError, match=r"video: there is nothing .* with --cameras or real .* with --reference"
    ):
        main(command)
    with pytest.raises(UserError, match=r"give real frames of the same views with --reference$"):
        main([*command, "--metrics", "images"])
    assert main([*command, "--reference", str(files / "truth" / "b" / "images")]) == 0
    (line,) = lines_of(tmp_path / "out")
    assert "psnr" in line["images"]
    assert all(
        "--cameras" in line[name][KEY] for name in ("camera", "tsed", "photometric", "consistency")
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "--cameras" in summary["camera"][KEY] and summary["unmeasured"] == {}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("not available: ") == 4


def test_a_reference_that_does_not_fit_is_refused_whatever_is_measured(files, tmp_path):
    (tmp_path / "few").mkdir()
    for number in range(5):
        write_image(torch.full((3, 32, 48), 0.2 * number), tmp_path / "few" / f"{number}.png")
    command = [str(files / "clips" / "a"), "--reference", str(tmp_path / "few"), *FAST]
    for group in ("images", "consistency"):
        with pytest.raises(UserError, match="9 frames, but the reference has 5"):
            main([*command, "--metrics", group, "--out", str(tmp_path / group)])


def test_a_clip_that_gives_no_answer_is_told_with_what_there_is(files, tmp_path, capsys):
    """Alone it is an error; among others a marked row."""
    (tmp_path / "clips").mkdir()
    for name in "de":
        write_video(torch.full((9, 3, 32, 48), 0.5), tmp_path / "clips" / f"{name}.mp4", 8)
    given = ["--cameras", str(files / "path.json"), "--metrics", "tsed,consistency", *FAST]
    assert main([str(tmp_path / "clips" / "d.mp4"), *given, "--out", str(tmp_path / "one")]) == 2
    assert "not measured: d: camera error: none of 8 pairs" in capsys.readouterr().out
    (line,) = lines_of(tmp_path / "one")
    assert line["tsed"]["percent"].keys() == line["consistency"].keys() == {KEY}

    assert main([str(tmp_path / "clips"), *given, "--out", str(tmp_path / "both")]) == 0
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    assert {name: list(row) for name, row in summary["unmeasured"].items()} == {
        name: ["camera error", "3D consistency"] for name in "de"
    }
    page = (tmp_path / "both" / "report.html").read_text()
    assert "Clips without a measure that was asked for" in page and "one colour" in page


def test_an_interrupted_run_goes_on_to_the_same_lines(files, tmp_path, monkeypatch):
    assert score_images(files, tmp_path / "whole") == 0
    from eval.clips.measures import ClipMeasures

    real = ClipMeasures.measure

    def interrupted(self, frames, watch, tell):
        if frames.source == "b":
            raise KeyboardInterrupt
        return real(self, frames, watch, tell)

    monkeypatch.setattr(ClipMeasures, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_images(files, tmp_path / "cut")
    assert len(lines_of(tmp_path / "cut")) == 1

    done = []

    def counted(self, frames, watch, tell):
        done.append(frames.source)
        return real(self, frames, watch, tell)

    monkeypatch.setattr(ClipMeasures, "measure", counted)
    assert score_images(files, tmp_path / "cut") == 0
    assert done == ["b", "c"]
    whole, cut = (tmp_path / name / "clips.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert not (tmp_path / "cut" / "batches").exists()


def test_a_recipe_scores_as_the_options_do(files, tmp_path):
    assert score_images(files, tmp_path / "options", "--protocol", "all") == 0
    recipe = tmp_path / "clips.yaml"
    recipe.write_text(
        f"kind: clips\ndata: {files / 'clips'}\nreference: {files / 'truth'}\nmetrics: [images]\n"
        f"out: {tmp_path / 'recipe'}\n"
    )
    assert main([str(recipe)]) == 0
    options, by_recipe = (tmp_path / name / "clips.jsonl" for name in ("options", "recipe"))
    assert options.read_bytes() == by_recipe.read_bytes()
    with pytest.raises(UserError, match="--cameras is for frames, and .* cameras=..."):
        main([str(recipe), "--cameras", str(files / "path.json")])


def test_other_frames_or_settings_are_not_mixed_in(files, tmp_path):
    assert score_images(files, tmp_path / "out") == 0
    with pytest.raises(UserError, match=r"other settings\).*restart"):
        score_images(files, tmp_path / "out", "--protocol", "wonderland")
    with pytest.raises(UserError, match=r"other clips"):
        score_images(files, tmp_path / "out", "--size", "16x16")
    assert score_images(files, tmp_path / "out", "--size", "16x16", "--restart") == 0


def break_frames(kind: str, frames: torch.Tensor) -> torch.Tensor:
    frames = frames.clone()
    if kind == "black":
        frames[4] = 0
    return {"one": frames[:1], "few": frames[:8], "small": frames[..., :16, :]}.get(kind, frames)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("black", "frame 4 is black"),
        ("one", "1 frame where at least 2"),
        ("few", "has 9 cameras for 8 frames"),
        ("small", "frames are 16x48 but the reference is 32x48"),
    ],
)
def test_bad_frames_are_told_in_a_sentence_that_names_them(files, tmp_path, noisy, kind, words):
    video = tmp_path / f"{kind}.mp4"
    write_video(break_frames(kind, noisy), video, 8)
    options = ["--reference", str(files / "truth" / "a"), "--out", str(tmp_path / "out")]
    options += ["--cameras", str(files / "path.json")]
    with pytest.raises(UserError, match=f"^{kind}: .*{words}"):
        main([str(video), *options, "--metrics", "images"])
    # Mended, it needs no restart: nothing is lost.
    write_video(noisy, video, 8)
    assert main([str(video), *options, "--metrics", "images"]) == 0


def test_one_bad_clip_is_a_marked_row_and_the_rest_goes_on(files, tmp_path, noisy, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(noisy, clips / "a.mp4", 8)
    write_video(break_frames("black", noisy), clips / "b.mp4", 8)
    (clips / "c.mp4").write_bytes(b"no video" * 50)
    options = ["--reference", str(files / "truth"), "--metrics", "images"]
    assert main([str(clips), *options, "--out", str(tmp_path / "out")]) == 2
    first, second, third = lines_of(tmp_path / "out")
    assert "psnr" in first["images"] and "is black" in second["error"]
    assert "can't be decoded" in third["error"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["clips"] == 1 and set(summary["failed"]) == {"b", "c"}
    assert "not scored: b: " in capsys.readouterr().out
    assert "Clips that could not be scored" in (tmp_path / "out" / "report.html").read_text()


def test_cameras_in_another_convention_are_refused_or_marked(moving_clip, tmp_path):
    views = moving_clip.select([0, 2, 4, 6])
    video, out = tmp_path / "video.mp4", tmp_path / "out"
    write_video(views.frames, video, 8)
    ours = views.cameras
    opengl = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])) @ ours.world_to_camera
    wrong = {"opengl": opengl, "inverted": ours.camera_to_world, "ours": ours.world_to_camera}
    for name, matrices in wrong.items():
        save_camera_path(replace(ours, world_to_camera=matrices), tmp_path / f"{name}.json")

    def score(cameras: str, *more: str) -> int:
        path = str(tmp_path / f"{cameras}.json")
        return main([str(video), "--cameras", path, "--metrics", "tsed", "--out", str(out), *more])

    with pytest.raises(UserError, match=r"video: .* OpenGL axes .* negate .* check_cameras=warn"):
        score("opengl")
    assert score("inverted", "check_cameras=warn") == 0
    (line,) = lines_of(out)
    assert "camera-to-world" in line["notes"][0]
    assert "camera-to-world" in (out / "report.html").read_text()
    right = tmp_path / "right"
    assert score("ours", "--out", str(right)) == 0
    (own,) = lines_of(right)
    assert own["notes"] == [] and own["tsed"]["typical_px"] < line["tsed"]["typical_px"]


def test_the_input_image_takes_the_place_of_the_first_frame(files, path_clip, tmp_path):
    from data.importers.images import write_image

    write_image(1 - path_clip.frames[0], tmp_path / "negative.png")
    scores = {}
    for name, more in (("own", ()), ("other", ("--input", str(tmp_path / "negative.png")))):
        out = tmp_path / name
        command = [str(files / "clips" / "b"), "--metrics", "consistency", "--out", str(out)]
        assert main([*command, *FAST, "check_cameras=no", *more]) == 0
        scores[name] = lines_of(out)[0]["consistency"]["input"]["psnr"]
    assert scores["other"] < scores["own"] - 3


def test_mistaken_options_are_told(files, tmp_path):
    with pytest.raises(UserError, match="metrics.0: found 'imges'"):
        main([str(files / "clips"), "--metrics", "imges", "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="fiit"):
        main([str(files / "clips"), "consistency.fiit=1", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_weights_that_are_named_but_missing_are_the_users_error(files, tmp_path):
    key = "images.lpips_alex"
    with pytest.raises(UserError, match=re.escape(f"{key}: /none.pth: no such file")):
        score_images(files, tmp_path / "out", f"{key}=/none.pth")

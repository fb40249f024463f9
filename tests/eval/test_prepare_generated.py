"""Clips made by a video model of random weights: what is stored is what was drawn, and can be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shard_writing import write_shards
from data.shards import open_clip, read_clip, verify
from eval.first_frames import open_first_frames
from eval.generated_shards import ClipPlan
from eval.pages.pictures import png_bytes
from eval.prepare_generated import main
from models.autoencoders.files import load_autoencoder
from models.autoencoders.latent_shards import GENERATED, LATENTS
from models.pipeline import ImageToScenePipeline
from train.tasks.stored_latents import has_stored_latents, made_by_video_model

SCENES = SceneConfig(height=32, width=48, num_frames=9, num_near=0, num_far=0)


@pytest.fixture
def make(pipeline_folder: Path, tmp_path: Path) -> Any:
    """Runs the command with two clips a shard and two at once; gives the folder."""

    def run(name: str, *options: str, clips: int = 3) -> Path:
        out = tmp_path / name
        common = ["--pipeline", str(pipeline_folder), "--out", str(out), "--clips", str(clips)]
        assert main([*common, "--clips-per-shard", "2", "--batch", "2", *options]) == 0
        return out

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_frames_are_decoded_from_the_latents_beside_them(make, pipeline_folder, capsys) -> None:
    folder = make("clips", "--seed", "5", "--paths", "own")
    assert "3 of 32x48" in capsys.readouterr().out
    index = ShardIndex.load(folder)
    assert verify(folder).problems == []
    codec = load_autoencoder(pipeline_folder / "autoencoder")
    assert has_stored_latents(index, pipeline_folder / "autoencoder", 9)
    assert made_by_video_model(index) and index.tensors(LATENTS).content.recipe[GENERATED] is True
    for number in range(3):
        clip, handle = read_clip(index, number), open_clip(index, number)
        assert clip.num_path_frames == 9 and clip.depth is None and clip.scale == 1
        latents = handle.tensors(LATENTS)["from0_step1"].float()
        assert (codec.decode(latents[None])[0] - clip.frames).abs().max() < 0.01
        truth = make_clip(5 + number, SCENES)
        torch.testing.assert_close(clip.cameras.world_to_camera, truth.cameras.world_to_camera)
        torch.testing.assert_close(clip.cameras.intrinsics, truth.cameras.intrinsics)
        assert clip.source == f"generated/{number:08d} from {truth.source} along own"


def test_a_stopped_command_goes_on_to_the_same_bytes(make, tmp_path, monkeypatch) -> None:
    whole = contents(make("whole", clips=5))
    draw, calls = ImageToScenePipeline.generate, []

    def stop_at_third(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(ImageToScenePipeline, "generate", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        make("stopped", clips=5)
    with pytest.raises(UserError, match="its shards are unfinished"):
        ShardIndex.load(tmp_path / "stopped")
    assert contents(make("stopped", "--resume", clips=5)) == whole
    assert len(calls) == 4
    with pytest.raises(UserError, match="already holds finished shards"):
        make("stopped", clips=5)
    with pytest.raises(UserError, match="seed was 0, now it is 1"):
        make("stopped", "--resume", "--seed", "1", clips=5)


def test_two_processes_give_the_bytes_of_one(make, tmp_path, capsys) -> None:
    whole = contents(make("whole", clips=3))
    make("shared", "--rank", "1", "--world-size", "2", clips=3)
    with pytest.raises(UserError, match="its shards are unfinished"):
        ShardIndex.load(tmp_path / "shared")
    capsys.readouterr()
    make("shared", "--rank", "0", "--world-size", "2", clips=3)
    assert "3 of 32x48" in capsys.readouterr().out
    assert contents(tmp_path / "shared") == whole


def test_photographs_take_turns_and_named_paths_differ_in_size_and_way(make, tmp_path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, red in (("a.png", 0.0), ("b.png", 1.0)):
        picture = torch.tensor([red, 0.5, 0.5])[:, None, None].expand(3, 40, 60)
        (photos / name).write_bytes(png_bytes(picture))
    folder = make("clips", "--images", str(photos), "--paths", "truck", clips=4)
    index = ShardIndex.load(folder)
    clips = [read_clip(index, number) for number in range(4)]
    assert [Path(clip.source.split()[2]).name for clip in clips] == ["a.png", "b.png"] * 2
    travels = [float(clip.cameras.positions[-1, 0]) for clip in clips]
    assert len({round(travel, 4) for travel in travels}) == 4
    assert all(0.3 * 0.4 <= abs(travel) <= 0.3 * 1.2 + 1e-5 for travel in travels)


def test_paths_are_drawn_by_number_alone() -> None:
    images = open_first_frames("procedural", height=32, width=48, num_frames=9, first_seed=0)
    first = images.load(0)

    def texts(paths: tuple[str, ...], seed: int = 0) -> list[str]:
        plan = ClipPlan(seed, 9, paths, (0.4, 1.2))
        return [plan.path(number, first)[0] for number in range(40)]

    both = texts(("orbit", "pan:7"))
    assert texts(("orbit", "pan:7")) == both != texts(("orbit", "pan:7"), seed=1)
    assert {text.split(":")[0] for text in both} == {"orbit", "pan"}
    assert {text for text in both if text.startswith("pan")} == {"pan:7"}
    amplitudes = [float(text.split(":")[1]) for text in both if text.startswith("orbit")]
    assert min(amplitudes) < -12 and max(amplitudes) > 12


def test_shards_give_first_frames_and_their_own_paths(make, tmp_path) -> None:
    truth = make_clip(3, SCENES)
    write_shards([truth], tmp_path / "real")
    folder = make("clips", "--images", str(tmp_path / "real"), "--paths", "own", clips=1)
    found = read_clip(ShardIndex.load(folder), 0)
    torch.testing.assert_close(found.cameras.world_to_camera, truth.cameras.world_to_camera)


def test_images_and_paths_that_make_no_sense_are_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png_bytes(torch.rand(3, 40, 60)))
    small = SCENES.model_copy(update={"height": 16, "width": 24})
    write_shards([make_clip(3, small)], tmp_path / "small")
    short = make_clip(3, SCENES.model_copy(update={"num_frames": 5}))
    write_shards([short], tmp_path / "short")

    def use(images: str, *paths: str, strength: tuple[float, float] = (0.4, 1.2)) -> None:
        found = open_first_frames(
            str(tmp_path / images) if images != "procedural" else images,
            height=32,
            width=48,
            num_frames=9,
            first_seed=0,
        )
        plan = ClipPlan(0, 9, paths, strength)
        plan.check(found)
        plan.path(0, found.load(0))

    for images, path, message in (
        ("none", "orbit", "no such folder; expected a folder of photographs"),
        ("empty", "orbit", "holds no images"),
        ("small", "orbit", "frames are 16x24, but .* 32x48"),
        ("photos", "own", "photographs have none"),
        ("short", "own", "its own path is shorter than 9 frames"),
        ("photos", "orbitt", "no camera path 'orbitt'; did you mean 'orbit'"),
    ):
        with pytest.raises(UserError, match=message):
            use(images, path)
    use("photos", "orbit")
    with pytest.raises(UserError, match="strength is 0 to 1; expected 0 < lower"):
        use("procedural", "orbit", strength=(0.0, 1.0))


def test_what_the_model_cannot_do_is_refused_and_leaves_nothing(make, tmp_path) -> None:
    for options, message in (
        (["--frames", "17"], "17 frames are more than the video model's clips of 9"),
        (["--paths", "orbit:999"], "amplitude of camera path 'orbit' is 999"),
    ):
        with pytest.raises(UserError, match=message):
            make("clips", *options)
        assert not (tmp_path / "clips").exists()

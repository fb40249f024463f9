"""The gap between generated and re-encoded latents, on latents whose gap is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from data.clips import Clip
from data.paired_shards import PairedWriter
from data.shard_writing import write_shards
from eval.latent_gap import main
from eval.reconstruction import reconstruct_clip, render_scene
from eval.scores.gap_measures import gap_markdown, summarise_gap
from models.autoencoders.files import load_autoencoder
from models.autoencoders.latent_shards import GENERATED, LATENTS, latents_recipe
from models.lalrm import LaLRM


def write(folder: Path, clip: Clip, weights: dict[str, Path], offset: float) -> Path:
    """Shards of the clip twice, its latents those of its own frames plus `offset` after the first frame."""
    given = clip.select(list(range(clip.num_path_frames)))
    # What PNG keeps of them, so that an offset of 0 is no difference at all.
    frames = (given.frames * 255).round() / 255
    latents = load_autoencoder(weights["autoencoder"]).encode(frames[None])[0].detach()
    latents[:, 1:] += offset
    stored = Clip(frames, given.cameras, "generated/0", given.num_frames)
    recipe = {**latents_recipe(weights["autoencoder"], 9), GENERATED: True}
    with PairedWriter(folder, LATENTS, recipe={}, tensors_recipe=recipe, expected=2) as writer:
        for number in range(2):
            writer.add(number, stored, {"from0_step1": latents})
    return folder


def run(tmp_path: Path, shards: Path, weights: dict[str, Path]) -> dict:  # type: ignore[type-arg]
    options = ["--lalrm", str(weights["lalrm"]), "--autoencoder", str(weights["autoencoder"])]
    assert main([str(shards), *options, "--out", str(tmp_path / "gap")]) == 0
    return json.loads((tmp_path / "gap" / "gap.json").read_text())


def test_latents_of_the_frames_themselves_have_no_gap(clip, weights, tmp_path) -> None:
    found = run(tmp_path, write(tmp_path / "shards", clip, weights, 0.0), weights)
    assert found["latent_difference"] == {"first": 0, "rest": 0}
    scores = found["lalrm"][str(weights["lalrm"])]
    assert scores["gap"]["psnr"] == {"mean": 0, "standard_error": 0}
    codec, lalrm = load_autoencoder(weights["autoencoder"]), LaLRM.from_pretrained(weights["lalrm"])
    given = clip.select(list(range(9)))
    drawn = render_scene(reconstruct_clip(given, codec, lalrm).gaussians, given.cameras).frames
    truth = (given.frames * 255).round() / 255
    error = (drawn - truth).square().mean(dim=(1, 2, 3))
    expected = float((-10 * error.log10()).mean())
    assert scores["generated"]["psnr"] == pytest.approx(expected, abs=0.02)


def test_latents_that_differ_have_the_difference_that_was_added(
    clip, weights, tmp_path, capsys
) -> None:
    found = run(tmp_path, write(tmp_path / "shards", clip, weights, 2.0), weights)
    latents = load_autoencoder(weights["autoencoder"]).encode(clip.frames[None, :9])[0, :, 1:]
    size = float(latents.detach().square().mean().sqrt())
    assert found["latent_difference"]["first"] == 0
    assert found["latent_difference"]["rest"] == pytest.approx(2 / size, rel=0.01)
    scores = found["lalrm"][str(weights["lalrm"])]
    gap = scores["generated"]["psnr"] - scores["re-encoded"]["psnr"]
    assert scores["gap"]["psnr"]["mean"] == pytest.approx(gap)
    assert gap != 0
    table = (tmp_path / "gap" / "gap.md").read_text()
    assert table in capsys.readouterr().out
    assert f"| {weights['lalrm']} | gap | {gap:+.2f} ± 0.00 |" in table


def test_the_table_leaves_out_what_is_not_available() -> None:
    def line(generated: float, encoded: float) -> dict:  # type: ignore[type-arg]
        kinds = {"generated": generated, "re-encoded": encoded}
        scores = {kind: {"psnr": x, "ssim": x / 50, "lpips": None} for kind, x in kinds.items()}
        return {"latent_difference": {"first": 0.1, "rest": 0.2}, "scores": {"m": scores}}

    summary = summarise_gap([line(20.0, 22.0), line(20.0, 26.0)])
    assert summary["lalrm"]["m"]["gap"]["psnr"] == {"mean": -4, "standard_error": pytest.approx(2)}
    assert summary["lalrm"]["m"]["gap"]["lpips"] is None
    table = gap_markdown(summary)
    assert "| m | gap | -4.00 ± 2.00 | -0.080 ± 0.040 |" in table
    assert "10.0 % (first latent frame) and 20.0 % (the rest)" in table
    assert "Not available: LPIPS." in table


def test_clips_that_were_not_generated_are_refused(clip, weights, tmp_path) -> None:
    write_shards([clip], tmp_path / "real")
    with pytest.raises(UserError, match="has no latents that a video model drew"):
        run(tmp_path, tmp_path / "real", weights)
    shards = write(tmp_path / "shards", clip, weights, 0.0)
    other = {**weights, "autoencoder": weights["other_autoencoder"]}
    with pytest.raises(UserError, match="not of the autoencoder .*other_autoencoder"):
        run(tmp_path, shards, other)
    assert not (tmp_path / "gap").exists()


@pytest.mark.parametrize("device", ["mps", "cuda:9"])
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, device) -> None:
    with pytest.raises(UserError, match=f"--device is '{device}'"):
        main([str(tmp_path), "--device", device])

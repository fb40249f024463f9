"""Set metrics of a whole run, with networks that need no weights, and through the libraries with random ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from configs.errors import UserError
from eval.images.feature_networks import as_bytes
from eval.images.set_distances import frechet_distance
from eval.images.set_metrics import SetMetrics, SetMetricsConfig, load_networks
from eval.scores.measured import NotAvailable
from eval.scores.protocols import FrameProtocol

NUM_CLIPS = 5
CONFIG = SetMetricsConfig(kid_subsets=10, kid_subset_size=6)


class Colours:
    """Means and a product of the channels of each frame."""

    label = "colours"

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        means = frames.mean(dim=(2, 3))
        return torch.cat([means, means.prod(dim=1, keepdim=True)], dim=1)


class Motion:
    """How a clip's channels change; three frames at least."""

    label = "motion"

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        if len(frames) < 3:
            raise UserError("motion: too few frames")
        means = frames.mean(dim=(2, 3))
        return (means[-1] - means[0])[None]


@pytest.fixture(scope="module")
def clips() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(4, 3, 16, 24, generator=generator) ** 2, torch.rand(4, 3, 16, 24, generator=generator))
        for _ in range(NUM_CLIPS)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def metrics_in(folder) -> SetMetrics:
    return SetMetrics(CONFIG, folder, {"frames": Colours(), "video": Motion()})


def test_metrics_are_the_distances_of_all_features(clips, tmp_path):
    run = metrics_in(tmp_path / "features")
    for number, (frames, reference) in enumerate(clips):
        run.add(number, frames, reference, f"clip {number}")
    scores = run.scores(range(NUM_CLIPS))
    generated, reference = (torch.cat(side) for side in zip(*clips, strict=True))
    expected = frechet_distance(Colours().features(generated), Colours().features(reference))
    assert scores.fid.value == pytest.approx(expected, rel=1e-6)
    assert (scores.fid.samples, scores.fid.clips, scores.fid.note) == (20, 5, "")
    moved = [torch.cat([Motion().features(pair[side]) for pair in clips]) for side in (0, 1)]
    assert scores.fvd.value == pytest.approx(frechet_distance(*moved), rel=1e-6)
    assert scores.kid.subset_size == 6 and scores.kid.std > 0

    line = json.loads(json.dumps(scores.line()))
    assert line["fid"] == {
        "value": round(scores.fid.value, 3), "samples": 20, "clips": 5, "network": "colours"
    }  # fmt: skip
    assert set(line["kid"]) == {"value", "std", "subset_size", "samples", "clips", "network"}


def test_an_interrupted_run_ends_with_the_same_numbers(clips, tmp_path):
    whole = metrics_in(tmp_path / "whole")
    for number, pair in enumerate(clips):
        whole.add(number, *pair, "clip")
    expected = whole.scores(range(NUM_CLIPS)).line()

    for number in (3, 0, 1):  # ranks write in any order, and a run that stops writes a clip again
        metrics_in(tmp_path / "parts").add(number, *clips[number], "clip")
    for number in (1, 4, 2):
        metrics_in(tmp_path / "parts").add(number, *clips[number], "clip")
    assert metrics_in(tmp_path / "parts").scores(range(NUM_CLIPS)).line() == expected
    (tmp_path / "parts" / "000002.safetensors").unlink()
    with pytest.raises(UserError, match="clip 2 has scores but no features"):
        metrics_in(tmp_path / "parts").scores(range(NUM_CLIPS))
    failed_left_out = [0, 1, 3, 4]
    assert metrics_in(tmp_path / "parts").scores(failed_left_out).fid.clips == 4


def test_a_clip_that_a_network_cannot_take_is_left_out_by_name(clips, tmp_path):
    run = metrics_in(tmp_path)
    for number, (frames, reference) in enumerate(clips):
        used = 2 if number == 3 else 4
        run.add(number, frames[:used], reference[:used], "clip")
    scores = run.scores(range(NUM_CLIPS))
    assert scores.fid.clips == 5 and scores.fid.samples == 18
    assert scores.fvd.clips == 4 and scores.fvd.left_out == {3: "motion: too few frames"}
    assert scores.line()["fvd"]["left_out"] == {"3": "motion: too few frames"}
    assert run.scores([3]).fvd == NotAvailable("motion: too few frames")
    assert "two clips" in run.scores([0]).fvd.why and run.scores([0]).fid.samples == 4
    assert isinstance(run.scores([]).fid, NotAvailable)


def test_few_samples_are_noted(clips, tmp_path):
    run = metrics_in(tmp_path)
    for number, pair in enumerate(clips[:2]):
        run.add(number, *pair, "clip")
    scores = run.scores([0, 1])
    assert "of 2 samples with 3 features" in scores.fvd.note and scores.fid.note == ""


def test_protocol_and_checks(clips, tmp_path):
    run = metrics_in(tmp_path)
    for number, (frames, reference) in enumerate(clips[:2]):
        run.add(number, frames, reference, "clip", FrameProtocol(set_frames=3))
    assert run.scores([0, 1]).fid.samples == 6
    frames, reference = clips[0]
    with pytest.raises(UserError, match="my clip: 4 frames, but the protocol takes the first 9"):
        run.add(0, frames, reference, "my clip", FrameProtocol(set_frames=9))
    with pytest.raises(UserError, match="my clip: 4 frames, but the reference has 3"):
        run.add(0, frames, reference[:3], "my clip")
    with pytest.raises(UserError, match="my clip: .* are black"):
        run.add(0, 0 * frames, reference, "my clip")


def test_without_weights_there_are_reasons_and_no_files(clips, tmp_path):
    run = SetMetrics(SetMetricsConfig(), tmp_path / "features")
    run.add(0, *clips[0], "clip")
    assert not (tmp_path / "features").exists()
    assert run.identity == {
        "frames_network": "not available",
        "video_network": "not available",
    }
    line = run.scores([0]).line()
    for metric, address in (("fid", "torch-fidelity"), ("kid", "torch-fidelity"), ("fvd", "i3d")):
        assert (
            address in line[metric]["not_available"] and "https://" in line[metric]["not_available"]
        )


def test_switched_off_metrics_say_so(tmp_path):
    found = load_networks(SetMetricsConfig(fid=False, fvd=False))
    assert found["frames"] == NotAvailable("switched off in the recipe (fid: false)")
    assert found["video"] == NotAvailable("switched off in the recipe (fvd: false)")
    with pytest.raises(UserError, match="fvd_network: .*nowhere.pt: no such file"):
        load_networks(SetMetricsConfig(fvd_network=tmp_path / "nowhere.pt"))


def test_fid_and_kid_through_inception_equal_torchmetrics(clips, inception_file, tmp_path):
    """From frames to numbers with the same weights file, each library by itself."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    config = SetMetricsConfig(inception=inception_file, inception_layer=64)
    run = SetMetrics(config, tmp_path / "features")
    for number, pair in enumerate(clips):
        run.add(number, *pair, "clip", FrameProtocol(set_frames=2))
    scores = run.scores(range(NUM_CLIPS))

    fid = FrechetInceptionDistance(64, feature_extractor_weights_path=str(inception_file))
    kid = KernelInceptionDistance(fid.inception, subsets=1, subset_size=10)
    for frames, reference in clips:
        for library in (fid, kid):
            library.update(as_bytes(frames[:2]), real=False)
            library.update(as_bytes(reference[:2]), real=True)
    assert scores.fid.value == pytest.approx(float(fid.compute()), rel=1e-4)
    assert scores.kid.value == pytest.approx(float(kid.compute()[0]), rel=1e-3)
    assert "not the published weights" in run.identity["frames_network"]
    assert "10 samples with 64 features" in scores.fid.note


def test_fvd_through_a_torchscript_file(clips, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    torch.jit.script(module).save(tmp_path / "network.pt")
    config = SetMetricsConfig(fid=False, fvd_network=tmp_path / "network.pt", fvd_size=None)
    run = SetMetrics(config, tmp_path / "features")
    for number, pair in enumerate(clips):
        run.add(number, *pair, "clip")
    with torch.no_grad():
        rows = [
            torch.cat([
                module((as_bytes(pair[side]) / 127.5 - 1).transpose(0, 1)[None]) for pair in clips
            ])
            for side in (0, 1)
        ]  # fmt: skip
    found = run.scores(range(NUM_CLIPS))
    assert found.fvd.value == pytest.approx(frechet_distance(*rows), rel=1e-4)
    assert isinstance(found.fid, NotAvailable)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(inception_file):
    config = SetMetricsConfig(inception=inception_file, device="cuda")
    with pytest.raises(UserError, match="no CUDA device"):
        load_networks(config)

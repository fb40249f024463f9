"""One clip's image metrics: against the libraries called directly, and what is said where there is no number."""

from __future__ import annotations

import json

import pytest
import skimage.data
import torch

from configs.errors import UserError
from eval.images import image_scores, metrics
from eval.images.image_scores import ImageMetrics, ImageScoreConfig, ImageScores
from eval.scores.measured import NotAvailable
from eval.scores.protocols import find_protocol
from models.torchvision_compat import TORCHVISION

needs_torchvision = pytest.mark.skipif(
    TORCHVISION == "absent", reason="torchvision is not installed"
)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Three noisy copies of parts of a photograph [3 3 64 96], ever noisier, and the parts."""
    photo = torch.tensor(skimage.data.astronaut() / 255.0, dtype=torch.float32).movedim(-1, 0)
    truth = torch.stack([photo[:, y : y + 64, 150:246] for y in (40, 50, 60)])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    frames = truth + noise * torch.tensor([0.02, 0.1, 0.3])[:, None, None, None]
    return frames.clamp(0, 1), truth


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Nothing in torch's cache, whatever this machine has."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "alexnet.pth"
    torch.save(torchvision.models.alexnet().state_dict(), path)
    return path


def test_values_are_the_librarys_own(pair):
    from torchmetrics.image import (
        MultiScaleStructuralSimilarityIndexMeasure,
        PeakSignalNoiseRatio,
        StructuralSimilarityIndexMeasure,
    )

    frames, truth = pair
    found = ImageMetrics(ImageScoreConfig()).score(frames, truth, "clip").metrics
    betas = torch.tensor([0.0448, 0.2856, 0.3001])
    three_scales = tuple((betas / betas.sum()).double().tolist())
    library = {
        "psnr": lambda: PeakSignalNoiseRatio(data_range=1.0),
        "ssim": lambda: StructuralSimilarityIndexMeasure(data_range=1.0),
        "ms_ssim_3": lambda: MultiScaleStructuralSimilarityIndexMeasure(
            data_range=1.0, betas=three_scales
        ),
    }
    for name, create in library.items():
        expected = [float(create()(a[None], b[None])) for a, b in zip(frames, truth, strict=True)]
        assert found[name] == pytest.approx(expected, abs=1e-5), name
        assert found[name] != pytest.approx([found[name][0]] * 3, abs=0.01)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """What LPIPS reads of it: the classifier behind has most of the weights, and no part in it."""
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.vgg16().state_dict()
    path = tmp_path_factory.mktemp("backbone") / "vgg16.pth"
    features = {n: 0.05 * torch.randn(v.shape) for n, v in shapes.items() if "features" in n}
    torch.save(features, path)
    return path


@needs_torchvision
@pytest.mark.parametrize(("backbone", "weights"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_is_the_packages_own(pair, backbone, weights, request):
    import lpips

    frames, truth = pair
    path = request.getfixturevalue(weights)
    name = f"lpips_{backbone}"
    measure = ImageMetrics(ImageScoreConfig.model_validate({"lpips": (backbone,), name: path}))
    found = measure.score(frames, truth, "clip").metrics
    assert set(found) == {"psnr", "ssim", "ms_ssim", "ms_ssim_3", name}

    network = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False).eval()
    state = torch.load(path, weights_only=True)
    for layer, parameter in network.net.named_parameters():
        parameter.data.copy_(state["features." + layer.split(".", 1)[1]])
    with torch.no_grad():
        expected = network(frames * 2 - 1, truth * 2 - 1).flatten().tolist()
    assert found[name] == pytest.approx(expected, rel=1e-5) and min(expected) > 0
    assert measure.identity[name].endswith("(not the published weights)")


def test_line_has_means_and_values_and_reasons(pair):
    scores = ImageMetrics(ImageScoreConfig()).score(*pair, "clip")
    line = json.loads(json.dumps(scores.line()))
    assert line["views"] == [0, 1, 2]
    assert line["psnr"]["mean"] == pytest.approx(sum(line["psnr"]["per_view"]) / 3, abs=1e-3)
    assert line["psnr"]["per_view"] == [round(value, 4) for value in scores.metrics["psnr"]]
    assert "176x176" in line["ms_ssim"]["not_available"]
    for backbone in ("alex", "vgg"):
        why = line[f"lpips_{backbone}"]["not_available"]
        assert "https://" in why and f"lpips_{backbone}=PATH" in why
    assert scores.means()["psnr"] == pytest.approx(line["psnr"]["mean"], abs=1e-4)
    assert isinstance(scores.means()["lpips_vgg"], NotAvailable)


def test_large_frames_have_the_published_ms_ssim(pair):
    from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

    frames, truth = (torch.nn.functional.interpolate(x[:2], (176, 180)) for x in pair)
    found = ImageMetrics(ImageScoreConfig(lpips=())).score(frames, truth, "clip").metrics
    assert set(found) == {"psnr", "ssim", "ms_ssim"}
    for value, frame, target in zip(found["ms_ssim"], frames, truth, strict=True):
        expected = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
        assert value == pytest.approx(float(expected(frame[None], target[None])), abs=1e-5)


@pytest.mark.parametrize(("size", "numbers"), [(10, {"psnr"}), (12, {"psnr", "ssim"})])
def test_frames_too_small_for_a_measure_lack_it(pair, size, numbers):
    frames, truth = (x[..., :size, :40].contiguous() for x in pair)
    found = ImageMetrics(ImageScoreConfig()).score(frames, truth, "clip").metrics
    assert {name for name, values in found.items() if isinstance(values, list)} == numbers


@needs_torchvision
def test_frames_too_small_for_a_backbone_lack_lpips(pair, alexnet):
    measure = ImageMetrics(ImageScoreConfig(lpips=("alex",), lpips_alex=alexnet))
    small, just = ([x[..., :side, :40].contiguous() for x in pair] for side in (30, 31))
    why = measure.score(*small, "clip").metrics["lpips_alex"]
    assert isinstance(why, NotAvailable) and "31x31" in why.why
    assert len(measure.score(*just, "clip").metrics["lpips_alex"]) == 3


def test_protocol_chooses_the_frames(pair):
    frames, truth = (x.repeat(6, 1, 1, 1)[:17] for x in pair)
    frames = torch.cat([frames, torch.zeros(1, 3, 64, 96)])  # not looked at, so no matter
    truth = torch.cat([truth, truth[:1]])
    measure = ImageMetrics(ImageScoreConfig(lpips=()))
    scores = measure.score(frames, truth, "clip", find_protocol("wonderland"))
    assert scores.views == list(range(14)) and len(scores.metrics["ssim"]) == 14
    with pytest.raises(UserError, match="clip: frame 17 is black"):
        measure.score(frames, truth, "clip")
    with pytest.raises(UserError, match="first 14"):
        measure.score(*pair, "clip", find_protocol("wonderland"))
    with pytest.raises(UserError, match="64x96 but the reference is 32x96"):
        measure.score(pair[0], pair[1][:, :, ::2], "clip")


def test_a_file_that_the_recipe_names_must_hold_the_weights(tmp_path):
    with pytest.raises(UserError, match="lpips_vgg: .*nowhere.pth: no such file"):
        ImageMetrics(ImageScoreConfig(lpips_vgg=tmp_path / "nowhere.pth"))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match="broken.pth is not a readable"):
        ImageMetrics(ImageScoreConfig(lpips_vgg=broken))


def test_a_missing_package_is_not_a_missing_number(pair, monkeypatch):
    monkeypatch.setattr(image_scores, "lpips_problem", lambda: "LPIPS needs lpips: install it")
    found = ImageMetrics(ImageScoreConfig()).score(*pair, "clip").metrics
    assert found["lpips_alex"] == NotAvailable("LPIPS needs lpips: install it")


def test_parts_do_not_change_the_values(pair, monkeypatch):
    frames, truth = (x.repeat(4, 1, 1, 1) for x in pair)
    whole = [metrics.ssim(frames, truth), metrics.ms_ssim(frames, truth, 3)]
    monkeypatch.setattr(metrics, "PIXELS_AT_ONCE", 2 * 64 * 96)
    for a, b in zip(
        whole, [metrics.ssim(frames, truth), metrics.ms_ssim(frames, truth, 3)], strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_summary_is_over_all_views_and_counts_what_is_missing():
    lacking = NotAvailable("too small")
    lines = [
        ImageScores([0, 1], {"psnr": [30.0, 20.0], "ms_ssim": [0.5, 0.7], "lpips_vgg": lacking}),
        ImageScores([0], {"psnr": [16.0], "ms_ssim": lacking, "lpips_vgg": lacking}),
    ]
    summary = image_scores.summarise([scores.line() for scores in lines])
    assert summary["psnr"] == {"mean": 22.0, "views": 3, "clips": 2}
    assert summary["ms_ssim"] == {"mean": 0.6, "views": 2, "clips": 1, "left_out": {"too small": 1}}
    assert summary["lpips_vgg"] == {"not_available": "too small"}
    assert image_scores.summarise([]) == {}

"""Metrics against their formulas and another library's values."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch

from configs.errors import UserError
from eval.images import metrics


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two photographs [2 3 48 64] and noisy copies of them."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee()]
    truth = torch.stack([torch.tensor(p[100:148, 200:264] / 255.0) for p in photographs])
    truth = truth.movedim(-1, 1)
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noise[1] *= 2
    return (truth + noise).clamp(0, 1), truth


def test_psnr_is_its_formula_per_image(pair):
    frames, truth = pair
    expected = [-10 * float(((a - b) ** 2).mean().log10()) for a, b in zip(*pair, strict=True)]
    assert metrics.psnr(frames, truth).tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_keeps_the_batch_shape_and_stays_finite(pair):
    frames, truth = pair
    values = metrics.psnr(
        frames[:, None].expand(2, 3, 3, 48, 64), truth[:, None].expand(2, 3, 3, 48, 64)
    )
    assert values.shape == (2, 3)
    assert metrics.psnr(truth, truth).tolist() == [metrics.PSNR_CAP_DB] * 2


def test_ssim_equals_scikit_image(pair):
    """The mean is over all pixels, with the image mirrored at its border."""

    def similarity(frame: torch.Tensor, truth: torch.Tensor) -> float:
        mirrored = [np.pad(x, ((0, 0), (10, 10), (10, 10)), mode="reflect") for x in (frame, truth)]
        _, pixels = skimage.metrics.structural_similarity(
            *mirrored, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        return pixels[:, 10:-10, 10:-10].mean()

    expected = [similarity(a, b) for a, b in zip(*pair, strict=True)]
    assert metrics.ssim(*pair).tolist() == pytest.approx(expected, abs=1e-6)
    assert metrics.ssim(pair[1], pair[1]).tolist() == pytest.approx([1.0, 1.0])


def test_lpips_is_none_without_weights_and_says_how_to_get_them(pair, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert metrics.lpips(*pair) is None
    hint = metrics.lpips_hint()
    assert "https://" in hint and str(tmp_path) in hint and "\n" not in hint


def test_lpips_with_a_backbone_file_orders_pictures(pair, tmp_path):
    """A random backbone is enough to see that weights are taken from the file and distances grow."""
    import torchvision

    torch.manual_seed(0)
    path = tmp_path / "alexnet.pth"
    torch.save(torchvision.models.alexnet().state_dict(), path)
    frames, truth = pair
    near = metrics.lpips(0.9 * truth + 0.1 * frames, truth, weights=path)
    far = metrics.lpips(frames, truth, weights=path)
    assert near is not None and far is not None
    assert (near < far).all() and metrics.lpips(truth, truth, weights=path).abs().max() < 1e-6


def test_lpips_with_a_damaged_file_is_the_users_error(pair, tmp_path):
    path = tmp_path / "alexnet.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="alexnet"):
        metrics.lpips(*pair, weights=path)


def test_depth_error_is_the_median_relative_error_of_known_pixels():
    truth = torch.tensor([1.0, 2.0, 4.0, 0.0, 5.0])
    depth = torch.tensor([1.1, 2.4, 4.0, 9.0, 50.0])
    assert metrics.depth_error(depth, truth) == pytest.approx(0.1, abs=1e-6)
    valid = torch.tensor([False, True, False, True, True])
    assert metrics.depth_error(depth, truth, valid) == pytest.approx(0.2, abs=1e-6)
    assert metrics.depth_error(depth, torch.zeros(5)) is None


def test_ms_ssim_has_as_many_scales_as_there_is_room_for():
    sizes = {10: 0, 11: 1, 21: 1, 22: 2, 44: 3, 64: 3, 98: 3, 99: 4, 175: 4, 176: 5, 480: 5}
    assert {side: metrics.ms_ssim_scales(side, 1000) for side in sizes} == sizes
    assert metrics.ms_ssim_scales(480, 64) == 3


@pytest.mark.parametrize("side", [11, 22, 44, 99, 176])
def test_ms_ssim_takes_the_smallest_images_that_it_should(side):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, side, side + 3, generator=generator)
    scales = metrics.ms_ssim_scales(side, side + 3)
    assert metrics.ms_ssim(truth, truth, scales).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (metrics.ms_ssim(truth.flip(0), truth, scales) < 0.9).all()
    with pytest.raises(UserError, match=f"too small for MS-SSIM of {scales + 1} scales"):
        metrics.ms_ssim(truth, truth, scales + 1)


def test_ms_ssim_is_the_product_of_its_scales():
    """Wang et al. 2003 by hand: contrast and structure of the finer scale, SSIM of the coarser one."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 44, 44, generator=generator).double()
    frames = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)

    def window() -> torch.Tensor:
        line = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
        return (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def terms(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
        """SSIM and its contrast part; each library has its own border."""
        pad = torch.nn.functional.pad

        def blur(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(pad(x, [5] * 4, mode="reflect"), window(), groups=3)

        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        contrast = (2 * (blur(a * b) - mean_a * mean_b) + 9e-4) / (var_a + var_b + 9e-4)
        light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        return float((light * contrast).mean()), float(contrast[..., 5:-5, 5:-5].mean())

    half = [torch.nn.functional.avg_pool2d(x, 2) for x in (frames, truth)]
    weights = [w / (0.0448 + 0.2856) for w in (0.0448, 0.2856)]
    expected = terms(frames, truth)[1] ** weights[0] * terms(*half)[0] ** weights[1]
    assert float(metrics.ms_ssim(frames, truth, 2)) == pytest.approx(expected, abs=1e-6)

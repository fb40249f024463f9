"""The loss's SSIM against torchmetrics', value and gradient."""

from __future__ import annotations

import pytest
import torch

import models.torchvision_compat  # noqa: F401  mends torchvision before torchmetrics imports it
from train.ssim import blur_matrix, structural_similarity


def smooth_noise(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:2], 5, 7, generator=generator)
    return torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")


@pytest.mark.parametrize("size", [(24, 32), (11, 40), (6, 9)])
def test_value_and_gradient_are_torchmetrics(size):
    from torchmetrics.functional.image import structural_similarity_index_measure

    truth = smooth_noise(3, 3, *size, seed=0)
    drawn = (0.8 * truth + 0.2 * smooth_noise(3, 3, *size, seed=1)).requires_grad_()
    ours = structural_similarity(drawn, truth)
    theirs = structural_similarity_index_measure(drawn, truth, data_range=1.0)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-4)
    assert ours.item() < 0.99
    gradients = [torch.autograd.grad(value, drawn)[0] for value in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[1].abs().max()))


def test_equal_images_are_alike_and_any_batch_shape_does():
    frames = smooth_noise(4, 3, 16, 16, seed=2)
    assert structural_similarity(frames, frames).item() == pytest.approx(1, abs=1e-5)
    other = frames.flip(0)
    flat = structural_similarity(frames, other)
    nested = structural_similarity(frames.unflatten(0, (2, 2)), other.unflatten(0, (2, 2)))
    assert torch.allclose(flat, nested)


@pytest.mark.parametrize("length", [1, 2, 4, 12])
def test_blur_keeps_what_is_constant_and_reflects_at_borders(length):
    matrix = blur_matrix(length)
    assert torch.allclose(matrix.sum(dim=1), torch.ones(length))
    assert torch.allclose(matrix, matrix.flip(0, 1))
    if length == 12:
        reflected = matrix[5, 4] + matrix[5, 6]
        assert matrix[0, 1] == pytest.approx(float(reflected), abs=1e-6)

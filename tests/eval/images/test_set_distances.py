"""Distances of sets against closed forms, float64 computations by another way, and the libraries' own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from eval.images.set_distances import frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    first = torch.randn(80, 6, generator=generator) @ mix
    second = torch.randn(60, 6, generator=generator) * 0.7 + 0.3
    return first, second


def kernel_truth(first: torch.Tensor, second: torch.Tensor) -> float:
    """The unbiased estimate, pair by pair."""
    a, b = first.double(), second.double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: torch.Tensor) -> float:
        n = len(x)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        values = kernel(x, x)
        return float(sum(values[i, j] for i, j in pairs)) / (n * (n - 1))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def test_frechet_distance_is_its_formula(sets):
    first, second = (x.double().numpy() for x in sets)
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*sets[::-1]) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_moved_set_is_the_move_squared(sets):
    move = torch.tensor([3.0, 0, 0, -4, 0, 0])
    assert frechet_distance(sets[0].double() + move, sets[0]) == pytest.approx(25, abs=1e-6)
    assert frechet_distance(sets[0], sets[0].flip(0)) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_with_fewer_rows_than_features():
    """The trace of the root is the nuclear norm of the centred sets' product: no eigenvalue near 0 in it."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(12, 100, generator=generator).double()
    second = torch.randn(9, 100, generator=generator).double() + 0.5
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (first, second)]
    expected = float((first.mean(0) - second.mean(0)).square().sum())
    expected += sum(float(x.square().sum()) for x in centred)
    expected -= 2 * float(torch.linalg.svdvals(centred[0] @ centred[1].T).sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_is_torch_fidelitys():
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(50, 8, generator=generator).double() + n for n in (0, 0.3)]
    stats = [fid.fid_features_to_statistics(x) for x in rows]
    expected = fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(*rows) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_whole_sets_is_its_formula(sets):
    first, second = sets[0][:40], sets[1][:40]
    found = kernel_distance(first, second, subsets=100, subset_size=1000, seed=0)
    assert found.mean == pytest.approx(kernel_truth(first, second), rel=1e-9)
    assert (found.std, found.subset_size) == (None, 40)


def test_kernel_distance_draws_subsets_by_its_seed_alone(sets):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = kernel_distance(*sets, subsets=20, subset_size=25, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert kernel_distance(*sets, subsets=20, subset_size=25, seed=3) == found
    assert kernel_distance(*sets, subsets=20, subset_size=25, seed=4).mean != found.mean
    assert found.subset_size == 25 and found.std > 0
    error = found.std / 20**0.5
    assert found.mean == pytest.approx(kernel_truth(*sets), abs=4 * error)


def test_kernel_distance_of_sets_of_unequal_size_uses_the_smaller(sets):
    assert kernel_distance(*sets, subsets=5, subset_size=1000, seed=0).subset_size == 60

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gaussians import Gaussians, quat_to_matrix
from models.meshing.density import CUT_OFF, density_on_grid, fill_enclosed, thickened
from models.meshing.grid import Contraction, make_grid


def random_gaussians(count: int) -> Gaussians:
    generator = torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    return Gaussians(
        means=2 * rand(count, 3) - 1,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        scales=0.02 * 20 ** rand(count, 3),
        opacities=rand(count),
        colors=rand(count, 3),
    )


def direct(gaussians: Gaussians, points: np.ndarray, cut_off: float) -> np.ndarray:
    """The sum as it is written, in float64; parts below `cut_off` left out."""
    scene = gaussians.to(torch.float64)
    rotation = quat_to_matrix(scene.quats)
    inverse = torch.linalg.inv(rotation @ torch.diag_embed(scene.scales**2) @ rotation.mT)
    offset = torch.from_numpy(points)[:, None] - scene.means
    square = torch.einsum("pni,nij,pnj->pn", offset, inverse, offset)
    each = scene.opacities * torch.exp(-0.5 * square)
    return torch.where(each >= cut_off, each, 0.0).sum(1).numpy()


@pytest.mark.parametrize("contraction", [None, Contraction(np.array([0.1, 0.2, 0.0]), 0.5)])
def test_density_equals_the_direct_sum(contraction):
    gaussians = random_gaussians(60)
    grid = make_grid(np.full(3, -1.3), np.full(3, 1.1), 40, contraction)
    steps = []
    density = density_on_grid(gaussians, grid, lambda *step: steps.append(step))
    index = np.random.default_rng(0).integers(0, grid.shape, size=(2000, 3))
    points = grid.to_world(grid.lower + grid.cell * index)
    found = density[tuple(index.T)]
    assert (found > 0.1).sum() > 100
    # float32 quaternions of unit length up to rounding, and storage in float32
    assert np.allclose(found, direct(gaussians, points, CUT_OFF), rtol=1e-5, atol=2 * CUT_OFF)
    whole = direct(gaussians, points, 0.0)
    assert (whole - found <= CUT_OFF * gaussians.num_gaussians).all()
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_any_number_of_threads_gives_the_same(monkeypatch):
    gaussians, grid = random_gaussians(60), make_grid(np.full(3, -1.0), np.full(3, 1.0), 32)
    alone = density_on_grid(gaussians, grid)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert np.array_equal(density_on_grid(gaussians, grid), alone)
    finally:
        torch.set_num_threads(threads)


def test_thickening_closes_the_gaps_of_a_thin_sheet():
    count = 12
    ticks = torch.linspace(-0.9, 0.9, count)
    x, y = (t.flatten() for t in torch.meshgrid(ticks, ticks, indexing="ij"))
    sheet = random_gaussians(count * count)
    sheet = replace(
        sheet,
        means=torch.stack([x, y, torch.full_like(x, 0.013)], dim=1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count * count, 1),
        scales=torch.tensor([0.12, 0.12, 0.001]).repeat(count * count, 1),
        opacities=torch.full((count * count,), 0.9),
    )
    grid = make_grid(np.full(3, -0.7), np.full(3, 0.7), 24)
    assert density_on_grid(sheet, grid).max() < 0.1
    assert density_on_grid(thickened(sheet, grid, 0.5), grid).max(axis=2).min() > 0.5


def test_hollows_are_filled_unless_they_are_open_or_looked_from():
    density = np.zeros((40, 20, 20), np.float32)
    for start in (2, 14, 26):
        density[start : start + 10, 5:15, 5:15] = 3
        density[start + 2 : start + 8, 7:13, 7:13] = 0
    density[30, 5:15, 10] = 0  # a hole through the third one's walls
    fill_enclosed(density, 1.0, np.array([[19, 10, 10], [99, 0, 0]]))
    assert density[7, 10, 10] == 2 and density[2, 5, 5] == 3
    assert density[19, 10, 10] == 0 and density[31, 10, 10] == 0

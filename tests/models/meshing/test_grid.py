from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from models.meshing.grid import (
    BLOCK,
    BYTES_BESIDE,
    BYTES_PER_NODE,
    FARTHEST,
    Contraction,
    check_memory,
    make_grid,
)

CENTRE = np.array([0.3, -0.2, 0.1])


@given(st.integers(0, 10_000), st.floats(0.1, 5), st.floats(-2, 6))
def test_contraction_is_undone_up_to_the_farthest_distance(seed, radius, power):
    direction = np.random.default_rng(seed).normal(size=(4, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    contraction = Contraction(CENTRE, radius)
    inward = contraction.inward(CENTRE + radius * 10**power * direction)
    assert (np.linalg.norm(inward, axis=1) < 2).all()
    back = (contraction.outward(inward) - CENTRE) / radius
    expected = direction * min(10**power, 1 / FARTHEST)
    assert np.abs(back - expected).max() < 1e-10 * 10 ** (2 * min(max(power, 0), 4))


def test_near_is_a_mere_scaling_and_far_is_inverse_distance():
    contraction = Contraction(CENTRE, 2.0)
    near = CENTRE + np.array([[0.5, 1.0, -1.0]])
    assert np.allclose(contraction.inward(near), [[0.25, 0.5, -0.5]])
    far = CENTRE + np.array([[0, 0, 20.0]])
    assert np.allclose(contraction.inward(far), [[0, 0, 2 - 2 / 20]])
    assert np.isfinite(contraction.outward(np.array([[2.0, 2.0, 2.0]]))).all()


@pytest.mark.parametrize("contraction", [None, Contraction(CENTRE, 0.4)])
def test_cells_are_as_large_as_told(contraction):
    grid = make_grid(np.full(3, -1.2), np.full(3, 1.2), 64, contraction)
    nodes = grid.block_nodes(np.arange(grid.num_blocks)).reshape(-1, 3)
    nodes = nodes[np.linalg.norm(nodes, axis=1) < 1.6]
    told = grid.cell_sizes(nodes)
    outward = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
    step = 1e-4
    grown = grid.to_world(nodes + step * outward) - grid.to_world(nodes)
    measured = np.linalg.norm(grown, axis=1) / step * grid.cell
    assert np.allclose(told, measured, rtol=2e-3)


def test_blocks_hold_their_nodes_and_find_their_points():
    grid = make_grid(np.array([-1.0, -2, 0]), np.array([1.0, 3, 2]), 40)
    assert all(side % BLOCK == 0 for side in grid.shape) and max(grid.shape) == 40
    blocks = np.arange(grid.num_blocks)
    nodes = grid.block_nodes(blocks)
    values = np.zeros(grid.shape)
    grid.store(values, blocks[::2], nodes[::2, :, 1])
    filled = np.argwhere(values)
    assert np.allclose(
        values[tuple(filled.T)], grid.lower[1] + grid.cell * filled[:, 1], atol=1e-12
    )
    assert np.isclose(len(filled), values.size / 2, rtol=0.1)
    owners = grid.blocks_of(nodes.reshape(-1, 3)).reshape(nodes.shape[:2])
    assert (owners == blocks[:, None]).all()
    assert grid.blocks_of(np.array([[0.0, 9, 0]])).tolist() == [-1]


def test_the_box_is_covered():
    lower, upper = np.array([-1.0, 0, 5]), np.array([2.0, 1, 5.5])
    grid = make_grid(lower, upper, 50)
    top = grid.lower + grid.cell * (np.array(grid.shape) - 1)
    assert (grid.lower <= lower + 1e-9).all() and (top >= upper - 1e-9).all()
    assert grid.in_box(np.stack([lower, upper])).all()
    assert not grid.in_box(np.array([lower - 0.01, upper + 0.01, [0, 0.5, 5.6]])).any()
    with pytest.raises(UserError, match=r"from \(0, 0, 0\) to \(1, 0, 1\)"):
        make_grid(np.zeros(3), np.array([1.0, 0, 1]), 50)


def test_a_grid_too_large_is_refused_with_one_that_fits():
    corners = np.zeros(3), np.array([1.0, 0.7, 0.4])
    grid = make_grid(*corners, 512)
    needed = BYTES_BESIDE + BYTES_PER_NODE * grid.num_nodes
    check_memory(grid, needed)
    third = BYTES_BESIDE + BYTES_PER_NODE * grid.num_nodes // 3
    with pytest.raises(UserError, match=r"512x\d+x\d+ nodes needs .* GiB") as caught:
        check_memory(grid, third)
    fits = int(str(caught.value).split("--grid ")[1].split()[0])
    assert 256 < fits < 512
    check_memory(make_grid(*corners, fits), third)
    with pytest.raises(UserError, match="no grid fits"):
        check_memory(grid, BYTES_BESIDE)

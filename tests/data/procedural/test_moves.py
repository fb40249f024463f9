"""Camera moves: the commanded length, smooth, rigid, and true to their names."""

from __future__ import annotations

import numpy as np
import pytest

from data.procedural.moves import MOVES, draw_move, make_move, transforms

T = np.linspace(-0.2, 1.2, 141)


@pytest.mark.parametrize("name", MOVES)
def test_every_move_is_rigid_smooth_and_as_long_as_asked(name):
    for seed in range(5):
        move = make_move(name, np.random.default_rng(seed), length=0.8, focus=3.0)
        assert move.name == name
        views = move(T)
        turn, at = views[:, :3, :3], views[:, :3, 3]
        np.testing.assert_allclose(
            turn @ turn.transpose(0, 2, 1), np.eye(3)[None].repeat(141, 0), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(turn), 1)
        start = move(np.zeros(1))[0]
        np.testing.assert_allclose(start, np.eye(4), atol=1e-12)
        inside = (T >= -1e-9) & (T <= 1 + 1e-9)
        length = np.linalg.norm(np.diff(at[inside], axis=0), axis=1).sum()
        assert length == pytest.approx(0.8, rel=0.01)
        # No step turns or moves much more than its neighbours.
        bend = np.linalg.norm(np.diff(at, n=2, axis=0), axis=1).max()
        assert bend < 0.01
        cosine = (np.einsum("nii->n", turn[:-1].transpose(0, 2, 1) @ turn[1:]) - 1) / 2
        assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1.5


def test_orbit_keeps_its_distance_and_its_subject_in_the_middle():
    move = make_move("orbit", np.random.default_rng(3), length=1.0, focus=2.5)
    subject = np.array([0, 0, 2.5])
    for view in move(np.linspace(0, 1, 7)):
        local = view[:3, :3].T @ (subject - view[:3, 3])
        np.testing.assert_allclose(local[:2], 0, atol=1e-9)
        assert np.hypot(*(subject - view[:3, 3])[[0, 2]]) == pytest.approx(2.5, rel=1e-4)


def test_trucks_go_sideways_and_dollies_ahead():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truck = make_move("truck", rng, 1.0, 3.0)(np.ones(1))[0, :3, 3]
        dolly = make_move("dolly", rng, 1.0, 3.0)(np.ones(1))[0, :3, 3]
        assert abs(truck[0]) > 0.85
        assert abs(dolly[2]) > 0.7


def test_all_moves_are_drawn():
    rng = np.random.default_rng(0)
    assert {draw_move(rng, 0.5, 3.0).name for _ in range(200)} == set(MOVES)


def test_angles_turn_the_view_right_up_and_clockwise():
    ahead, down = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    zero, small = np.zeros(1), np.full(1, 0.1)
    turn = [
        transforms(np.zeros((1, 3)), *angles)[0, :3, :3]
        for angles in (
            (small, zero, zero),
            (zero, small, zero),
            (zero, zero, small),
        )
    ]
    assert (turn[0] @ ahead)[0] > 0
    assert (turn[1] @ ahead)[1] < 0
    assert (turn[2] @ down)[0] < 0

"""Losses of a fit, on values that are known."""

from __future__ import annotations

import pytest

from train.fitting import losses


def test_photometric_loss_is_zero_for_the_truth_and_mixes_as_stated(frames):
    assert losses.photometric_loss(frames, frames, 0.2) < 1e-6
    shifted = frames + 0.1
    assert losses.photometric_loss(shifted, frames, 0.0).item() == pytest.approx(0.1, abs=1e-5)
    pure = losses.photometric_loss(shifted, frames, 1.0).item()
    mixed = losses.photometric_loss(shifted, frames, 0.2).item()
    assert mixed == pytest.approx(0.8 * 0.1 + 0.2 * pure, abs=1e-5)

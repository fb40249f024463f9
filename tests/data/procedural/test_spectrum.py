"""Slopes of spectra: known noise, and procedural frames close to photographs."""

from __future__ import annotations

import numpy as np
import pytest

from data.procedural import spectrum
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.procedural.spectrum import bundled_photographs, luminance, spectrum_slopes

TOLERANCE = 0.35
"""Between the mean slopes of procedural frames and photographs; both spread by about 0.25."""


def noise(slope: float, number: int = 24) -> np.ndarray:
    """Grey pictures `[n 3 64 96]` whose power falls like f**slope."""
    rng = np.random.default_rng(0)
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(96)[None, :])
    amplitude = np.where(radius > 0, radius.clip(1e-3) ** (slope / 2), 0)
    waves = rng.standard_normal((number, *radius.shape, 2)) @ [1, 1j]
    grey = np.fft.irfft2(amplitude * waves, s=(64, 96))
    return np.repeat(grey[:, None] / grey.std(), 3, axis=1)


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_noise_of_a_known_slope(slope):
    assert spectrum_slopes(noise(slope)).mean() == pytest.approx(slope, abs=0.12)


def test_procedural_frames_have_the_slope_of_photographs():
    config = SceneConfig(num_frames=2, num_near=0, num_far=0)
    frames = np.stack([make_clip(seed, config).frames[0].numpy() for seed in range(16)])
    names, photographs = bundled_photographs(64, 96)
    assert len(names) == len(photographs) >= 5
    gap = spectrum_slopes(frames).mean() - spectrum_slopes(photographs).mean()
    assert abs(gap) < TOLERANCE
    # Calm: no more contrast than photographs have, and neither black nor white.
    assert 0.08 < luminance(frames).std(axis=(1, 2)).mean() < 0.22
    assert 0.3 < luminance(frames).mean() < 0.6


def test_the_command_prints_both_and_draws(tmp_path, capsys):
    picture = tmp_path / "grid.png"
    argv = ["--clips", "2", "--size", "16", "24", "--picture", str(picture)]
    assert spectrum.main(argv) == 0
    text = capsys.readouterr().out
    assert "2 procedural clips" in text and "photographs" in text
    assert picture.stat().st_size > 500

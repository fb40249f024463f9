"""A prior that knows the truth brings a damaged texture back: the machinery, apart from how good a prior is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.cameras import Cameras
from models.autoencoders.files import load_autoencoder
from models.bundled_weights import TINY_AUTOENCODER
from models.meshing.files import TexturedMesh
from models.meshing.rasteriser import draw, draw_atlas
from models.meshing.texture_denoising import (
    KnownPicture,
    TextureDenoiseConfig,
    denoise_texture,
    finer_views,
    wanted,
)
from models.meshing.texture_fit import texture_views
from models.meshing.unwrap import unwrap
from models.meshing.views import views_around
from models.priors.oracle import OraclePrior

SIZE, GREY = 96, 0.5
SIGNAL = torch.linspace(0.9999, 0.0, 1000, dtype=torch.float64)


@dataclass(frozen=True)
class Painted:
    """An octahedron with its true texture. cameras: views all around, of which a prior sees four at a time."""

    mesh: TexturedMesh
    cameras: Cameras

    def look(self, cameras: Cameras) -> Tensor:
        return self.pictures(self.mesh.texture, cameras)

    def pictures(self, texture: Tensor, cameras: Cameras) -> Tensor:
        return finer_views(self.mesh.unwrapped, cameras).pictures(texture, GREY, 2)

    def draw_cameras(self, generator: torch.Generator) -> Cameras:
        order = torch.randperm(self.cameras.num_views, generator=generator)
        return self.cameras.select(order[:4])

    def denoise(self, texture: Tensor, prior: OraclePrior, seed: int = 0, known=None, **settings):
        config = TextureDenoiseConfig.model_validate({"rounds": 2, "pictures": 24, **settings})

        def generator_of(number: int) -> torch.Generator:
            return torch.Generator().manual_seed(100 * seed + number)

        start = TexturedMesh(self.mesh.unwrapped, texture)
        found = denoise_texture(
            start, prior, self.draw_cameras, config, generator_of, background=GREY, known=known
        )
        return found.texture

    def psnr(self, texture: Tensor, others: Cameras) -> float:
        """Of the surface in views that no fit looked at [dB]."""
        views = texture_views(self.mesh.unwrapped, draw(self.mesh.unwrapped.mesh, others))
        error = views.look_up(texture) - views.look_up(self.mesh.texture)
        return float(-10 * error.movedim(1, -1)[views.covered].square().mean().log10())


@pytest.fixture
def painted(octahedron, sphere) -> Painted:
    unwrapped = unwrap(octahedron, SIZE)
    atlas = draw_atlas(unwrapped.uvs, unwrapped.mesh.faces, SIZE)
    points = atlas.interpolate(unwrapped.mesh.faces, unwrapped.mesh.vertices)
    texture = torch.full((SIZE, SIZE, 3), GREY)
    waves = torch.from_numpy(points) * torch.tensor([7.0, 9.0, 8.0])
    texture[torch.from_numpy(atlas.face[0] >= 0)] = 0.5 + 0.4 * torch.sin(waves).float()
    mesh = TexturedMesh(unwrapped, texture.movedim(-1, 0).contiguous())
    return Painted(mesh, views_around(sphere.gaussians, 24, 48, 64))


@pytest.fixture
def others(sphere) -> Cameras:
    return views_around(sphere.gaussians, 7, 80, 80)


def damaged(texture: Tensor, how: str) -> Tensor:
    if how == "noisy":
        noise = torch.randn(texture.shape, generator=torch.Generator().manual_seed(3))
        return (texture + 0.2 * noise).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(texture, 15, 1, 7, count_include_pad=False)


@pytest.mark.parametrize("how", ["noisy", "blurred"])
def test_an_oracle_brings_a_damaged_texture_back(painted, others, how):
    prior = OraclePrior(painted.look, SIGNAL)
    start = damaged(painted.mesh.texture, how)
    found = painted.denoise(start, prior)
    before, after = painted.psnr(start, others), painted.psnr(found, others)
    print(f"{how}: {before:.2f} -> {after:.2f} dB")
    assert before < 20 and after > before + 6
    assert found.min() >= 0 and found.max() <= 1


def test_an_oracle_behind_an_autoencoder_brings_it_back_too(painted, others):
    """What the autoencoder loses of the truth is not lost on the texture."""
    prior = OraclePrior(painted.look, SIGNAL, load_autoencoder(TINY_AUTOENCODER))
    start = damaged(painted.mesh.texture, "blurred")
    before, after = (painted.psnr(t, others) for t in (start, painted.denoise(start, prior)))
    print(f"through the codec: {before:.2f} -> {after:.2f} dB")
    assert after > before + 3
    # The true texture stays what it is, though its pictures do not go through the codec unharmed.
    kept = painted.psnr(painted.denoise(painted.mesh.texture, prior), others)
    through = prior.decode(prior.encode(painted.look(painted.cameras)))
    lost = (through - painted.look(painted.cameras)).square().mean()
    assert kept > 45 > -10 * float(lost.log10())


def test_without_noise_nothing_changes_and_seeds_decide(painted):
    prior = OraclePrior(painted.look, SIGNAL)
    start = damaged(painted.mesh.texture, "noisy")
    assert torch.equal(painted.denoise(start, prior, noise=(0, 0)), start)
    runs = [painted.denoise(start, prior, seed, rounds=1, pictures=4) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_known_picture_is_fitted_where_it_may_be_looked_at(painted):
    start = damaged(painted.mesh.texture, "blurred")
    camera = painted.cameras.select(0)
    shown = torch.zeros(48, 64, dtype=torch.bool)
    shown[:, :32] = True
    known = KnownPicture(painted.look(camera)[0], camera, shown)
    prior = OraclePrior(painted.look, SIGNAL)
    found = painted.denoise(start, prior, known=known, noise=(0, 0), image_weight=8)
    errors = [
        (painted.pictures(texture, camera) - known.frame).square().mean(1)[0]
        for texture in (start, found)
    ]
    covered = painted.pictures(torch.ones_like(start), camera)[0, 0] > 0.99
    inner = torch.zeros_like(shown)
    inner[:, :28] = True
    assert errors[1][inner & covered].mean() < 0.2 * errors[0][inner & covered].mean()
    away = ~shown & covered
    away[:, :36] = False
    assert np.isclose(errors[1][away].mean(), errors[0][away].mean(), rtol=0.05)


def test_a_change_is_by_pixel_and_what_is_finer_stays(painted):
    views = finer_views(painted.mesh.unwrapped, painted.cameras.select([0, 1]))
    texture = painted.mesh.texture
    change = torch.full((2, 3, 48, 64), 0.1)
    found = wanted(views, texture, change, 2.0)
    drawn = views.look_up(texture).movedim(1, -1)[views.covered]
    assert torch.allclose(found.colors, drawn + 0.1, atol=1e-6)
    assert found.uvs.shape == (int(views.covered.sum()), 2) and (found.weights == 2).all()


def test_noise_falls_from_round_to_round():
    config = TextureDenoiseConfig(noise=(0.4, 0.1), rounds=4)
    assert [round(config.noise_of(i), 3) for i in range(4)] == [0.4, 0.3, 0.2, 0.1]
    assert TextureDenoiseConfig(rounds=1).noise_of(0) == 0.2
    for noise in ((0.1, 0.2), (1.0, 0.1), (0.5, -0.1)):
        with pytest.raises(ValidationError, match="expected 0 <= last <= first"):
            TextureDenoiseConfig(noise=noise)

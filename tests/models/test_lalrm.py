from __future__ import annotations

import math

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from models.gaussian_head import GaussianHead, GaussianHeadConfig
from models.lalrm import LaLRM, LaLRMConfig

TINY = LaLRMConfig(latent_channels=4, width=32, depth=2, heads=2)


def make_cameras(
    batch: int, num_views: int, height: int, width: int, device: str = "cpu"
) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    transforms = torch.eye(4).repeat(batch, num_views, 1, 1)
    transforms[..., :3, 3] = 0.1 * torch.randn(batch, num_views, 3, generator=generator)
    intrinsics = intrinsics_from_fov(50.0, height, width).expand(batch, num_views, 3, 3)
    return Cameras(transforms.to(device), intrinsics.to(device), height, width)


def test_full_size_has_the_papers_tokens_and_gaussians() -> None:
    cameras = make_cameras(1, 49, 480, 720, device="meta")
    with torch.device("meta"):
        model = LaLRM(LaLRMConfig())
        latents = torch.empty(1, 16, 13, 60, 90)
        tokens = model.encode_tokens(latents, cameras)
        gaussians = model(latents, cameras)
    assert tokens.shape == (1, 13, 30, 45, 1024)
    assert tokens[..., 0].numel() == 17_550
    assert gaussians.num_gaussians == 4_233_600
    # 24 blocks of 12 d^2 weights, and the embeddings and decoder that METHOD-level sizes fix.
    assert sum(p.numel() for p in model.parameters()) == 314_634_252


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_one_gaussian_a_half_resolution_pixel(aligned: bool, skip: bool) -> None:
    config = TINY.model_copy(update={"temporal_alignment": aligned, "color_skip": skip})
    cameras = make_cameras(2, 9, 32, 48)
    gaussians = LaLRM(config)(torch.randn(2, 4, 3, 4, 6), cameras)
    assert gaussians.means.shape == (2, 9 * 16 * 24, 3)
    assert gaussians.opacities.min() > 0
    assert gaussians.opacities.max() < 1
    torch.testing.assert_close(gaussians.quats.norm(dim=-1), torch.ones(2, 9 * 16 * 24))


def test_gaussians_lie_on_the_rays_of_their_cells() -> None:
    config = GaussianHeadConfig(initial_distance=2.0)
    cameras = make_cameras(1, 3, 32, 48)
    gaussians = GaussianHead(config)(torch.zeros(1, 3, 16, 24, 12), cameras)
    means = gaussians.means.view(3, 16, 24, 3)
    for view in range(3):
        pixels, _ = cameras.select(view).project(means[view].reshape(1, -1, 3))
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="ij")
        expected = torch.stack([2 * columns + 1, 2 * rows + 1], dim=-1).float()
        torch.testing.assert_close(pixels[0, 0].view(16, 24, 2), expected, atol=2e-4, rtol=1e-4)
        distance = (means[view] - cameras.positions[0, view]).norm(dim=-1)
        torch.testing.assert_close(distance, torch.full((16, 24), 2.0))


@pytest.mark.parametrize("mapping", ["log", "inverse", "linear"])
def test_distance_mapping_starts_where_told_and_stays_in_range(mapping: str) -> None:
    config = GaussianHeadConfig(distance=mapping, near=0.1, far=20.0, initial_distance=1.5)
    head = GaussianHead(config)
    assert math.isclose(float(head.distance(torch.zeros(()))), 1.5, rel_tol=1e-5)
    ends = head.distance(torch.tensor([-1e3, 1e3])).sort().values
    torch.testing.assert_close(ends, torch.tensor([0.1, 20.0]))
    if mapping == "log":
        raw = torch.zeros((), requires_grad=True)
        head.distance(raw).log().backward()
        assert math.isclose(float(raw.grad), 1.0, rel_tol=1e-5)


def test_alignment_puts_a_latents_gaussians_on_its_own_frames() -> None:
    """With alignment, changing latent i moves only the Gaussians of frames 4i-3..4i (no blocks mix)."""
    config = TINY.model_copy(update={"temporal_alignment": True, "depth": 1})
    model = LaLRM(config)
    torch.nn.init.zeros_(model.blocks[0].project.weight)
    cameras = make_cameras(1, 9, 32, 48)
    latents = torch.randn(1, 4, 3, 4, 6)
    changed = latents.clone()
    changed[:, :, 1] += 1
    before, after = model(latents, cameras).means, model(changed, cameras).means
    moved = (before - after).abs().view(9, -1).amax(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_color_skip_fit_finds_a_linear_map() -> None:
    """If the half-resolution colours are linear in the latents, the skip alone reproduces them."""
    config = TINY.model_copy(update={"color_skip": True})
    model = LaLRM(config)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(12, 4, 3, 4, 6, generator=generator)
    for layer in (model.color_skip.first, model.color_skip.rest):
        torch.nn.init.normal_(layer.weight, std=0.05, generator=generator)
        torch.nn.init.normal_(layer.bias, std=0.1, generator=generator)
    with torch.no_grad():
        small = model.color_skip(latents).sigmoid()
        frames = small.movedim(-1, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
        fresh = LaLRM(config).color_skip
        fresh.fit(latents, frames)
        torch.testing.assert_close(fresh(latents).sigmoid(), small, atol=2e-3, rtol=0)


def test_checkpointing_recomputes_the_blocks_and_changes_nothing() -> None:
    cameras, latents = make_cameras(1, 9, 32, 48), torch.randn(1, 4, 3, 4, 6)
    gradients, calls = [], []
    for active in (False, True):
        torch.manual_seed(0)
        model = LaLRM(TINY.model_copy(update={"gradient_checkpointing": active})).train()
        count = []
        model.blocks[0].qkv.register_forward_hook(lambda *_, count=count: count.append(1))
        model(latents, cameras).means.sum().backward()
        gradients.append(model.fuse.weight.grad)
        calls.append(len(count))
    assert calls == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_saved_model_gives_the_same_gaussians(tmp_path) -> None:
    model = LaLRM(TINY).eval()
    model.save_pretrained(tmp_path)
    again = LaLRM.from_pretrained(tmp_path)
    assert again.config == TINY
    cameras, latents = make_cameras(1, 9, 32, 48), torch.randn(1, 4, 3, 4, 6)
    assert torch.equal(model(latents, cameras).means, again(latents, cameras).means)


def test_half_precision_files_load_into_the_same_model(tmp_path) -> None:
    model = LaLRM(TINY).eval()
    model.save_pretrained(tmp_path, torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.5 * sum(
        p.numel() for p in model.parameters()
    )
    again = LaLRM.from_pretrained(tmp_path)
    assert again.fuse.weight.dtype == torch.float32
    torch.testing.assert_close(again.fuse.weight, model.fuse.weight, atol=1e-4, rtol=1e-3)


def test_latents_that_do_not_fit_are_named() -> None:
    model = LaLRM(TINY)
    with pytest.raises(UserError, match=r"need \(4, 3, 4, 6\)"):
        model(torch.randn(1, 4, 3, 4, 5), make_cameras(1, 9, 32, 48))
    with pytest.raises(UserError, match="9 or 17"):
        model(torch.randn(1, 4, 4, 4, 6), make_cameras(1, 13, 32, 48))
    with pytest.raises(UserError, match="train at 240x352"):
        model(torch.randn(1, 4, 3, 30, 45), make_cameras(1, 9, 240, 360))

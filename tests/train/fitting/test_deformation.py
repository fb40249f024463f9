"""The deformation field: nothing at the input frame, what it says elsewhere; distortion does not blur the scene."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from models.gaussians import quat_to_matrix
from models.rendering.render import render
from train.distillation.cameras import CameraSampler, CameraSamplerConfig
from train.distillation.evidence import EvidenceConfig, gather_evidence
from train.distillation.refine import RefineConfig, Refinement
from train.fitting.deformation import DeformationConfig, DeformationField
from train.fitting.starts import StartConfig, gaussians_from_depth

GREY = torch.full((3,), 0.5)


def test_the_input_frame_is_not_deformed_and_a_new_field_deforms_nothing(scene, cameras):
    field = DeformationField(4, cameras, scene, DeformationConfig())
    for frame in range(4):
        found = field.deformed(scene, frame)
        for name, value in scene.tensors().items():
            assert torch.allclose(found.tensors()[name], value, atol=1e-6)
    with torch.no_grad():
        field.grid += 0.1
    assert field.deformed(scene, 0) is scene
    weight = field.config.size_weight  # it is even, so that only its size counts
    assert float(field.penalty().detach()) == pytest.approx(0.01 * weight)


def test_an_even_field_shifts_turns_and_grows(scene, cameras):
    field = DeformationField(3, cameras, scene, DeformationConfig())
    turn = torch.tensor([0.02, -0.01, 0.03])
    with torch.no_grad():
        field.grid[1, :3] = torch.tensor([0.1, 0.0, -0.05])[:, None, None, None]
        field.grid[1, 3:6] = turn[:, None, None, None]
        field.grid[1, 6:] = 0.2
    found = field.deformed(scene, 2)
    z = cameras.select(0).project(scene.means)[1][0]
    expected = scene.means + z[:, None] * torch.tensor([0.1, 0.0, -0.05])
    assert torch.allclose(found.means, expected, atol=1e-6)
    assert torch.allclose(found.scales, scene.scales * torch.tensor(0.2).exp())
    rotation = torch.from_numpy(Rotation.from_rotvec(turn.numpy()).as_matrix()).float()
    assert torch.allclose(
        quat_to_matrix(found.quats), rotation @ quat_to_matrix(scene.quats), atol=1e-3
    )
    assert torch.equal(field.deformed(scene, 1).means, scene.means)


def test_cells_are_where_the_input_camera_sees_them(scene, cameras):
    field = DeformationField(2, cameras, scene, DeformationConfig(cell_px=4))
    with torch.no_grad():
        field.grid[0, 0, :, :, -1] = 1.0  # the rightmost column moves right
    moved = field.deformed(scene, 1).means[:, 0] - scene.means[:, 0]
    u = cameras.select(0).project(scene.means)[0][0, :, 0] / cameras.width
    assert (moved[u > 0.96] > 0.5).all() and (moved[u < 0.8] == 0).all()


def distorted(frames: torch.Tensor, largest_px: float, seed: int) -> torch.Tensor:
    """Each frame but the first bent smoothly in a way of its own, more and more along the clip."""
    g = torch.Generator().manual_seed(seed)
    count, _, height, width = frames.shape
    bend = F.interpolate(torch.randn(count, 2, 3, 4, generator=g), (height, width), mode="bicubic")
    bend = bend / bend.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    grow = torch.linspace(0, largest_px, count)[:, None, None, None]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([columns, rows]).float() + 0.5 + grow * bend
    grid = 2 * at / torch.tensor([width, height])[:, None, None] - 1
    return F.grid_sample(frames, grid.movedim(1, -1), padding_mode="border", align_corners=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [930_000_000, 930_000_001, 930_000_002])
def test_distortion_aware_is_better_on_undistorted_views_by_1_5_db(seed):
    size = {"height": 32, "width": 48, "num_frames": 17, "num_near": 4, "num_far": 0}
    clip = make_clip(seed, SceneConfig(**size, travel=(0.15, 0.45)))
    path = clip.cameras.select(list(range(17)))
    frames = distorted(clip.frames[:17], 3.0, seed)
    assert torch.allclose(frames[0], clip.frames[0], atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    start = gaussians_from_depth(
        frames, path, clip.depth[:17], StartConfig(num_gaussians=2000, opacity=0.5), generator
    )
    evidence = gather_evidence(frames, path, EvidenceConfig(), generator)

    sampler = CameraSampler(path, 1.0, CameraSamplerConfig())

    def unseen(deformation: DeformationConfig | None) -> float:
        config = RefineConfig(iterations=500, frames_per_step=4, deformation=deformation)
        refined = Refinement(start, sampler, evidence, None, config, seed=0).run()
        drawn = render(refined, clip.cameras, background=GREY).frames
        return float(-10 * (drawn - clip.frames)[1:].square().mean((1, 2, 3)).log10().mean())

    plain, aware = unseen(None), unseen(DeformationConfig())
    print(f"plain {plain:.2f} dB, distortion-aware {aware:.2f} dB")
    assert aware > plain + 1.5

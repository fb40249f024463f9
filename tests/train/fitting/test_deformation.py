"""The deformation field: nothing at the input frame, what it says elsewhere; distortion does not blur the scene."""

from __future__ import annotations

from dataclasses import replace

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
    field = DeformationField(cameras, DeformationConfig(), scene.means)
    for frame in range(6):
        found = field.deformed(scene, frame)
        for name, value in scene.tensors().items():
            assert torch.allclose(found.tensors()[name], value, atol=1e-6)
    with torch.no_grad():
        field.grid += 0.1
    assert field.deformed(scene, 0) is scene
    weight = field.config.size_weight  # it is even, so that only its size counts
    assert float(field.penalty().detach()) == pytest.approx(0.01 * weight)


def test_an_even_field_shifts_turns_and_grows_in_the_axes_of_its_frame(scene, cameras):
    about_y = torch.from_numpy(Rotation.from_euler("y", 30, degrees=True).as_matrix()).float()
    poses = cameras.world_to_camera.clone()
    poses[2, :3, :3] = about_y
    turned = replace(cameras, world_to_camera=poses)
    field = DeformationField(turned, DeformationConfig(), scene.means)
    shift, turn = torch.tensor([0.1, 0.0, -0.05]), torch.tensor([0.02, -0.01, 0.03])
    with torch.no_grad():
        field.grid[1, :3] = shift[:, None, None]
        field.grid[1, 3:6] = turn[:, None, None]
        field.grid[1, 6:] = 0.2
    found = field.deformed(scene, 2)
    z = turned.select(2).project(scene.means)[1][0]
    assert torch.allclose(found.means, scene.means + z[:, None] * (about_y.T @ shift), atol=1e-6)
    assert torch.allclose(found.scales, scene.scales * torch.tensor(0.2).exp())
    rotation = torch.from_numpy(Rotation.from_rotvec((about_y.T @ turn).numpy()).as_matrix())
    assert torch.allclose(
        quat_to_matrix(found.quats), rotation.float() @ quat_to_matrix(scene.quats), atol=1e-3
    )
    assert torch.equal(field.deformed(scene, 1).means, scene.means)


def test_cells_are_where_the_frame_itself_sees_them(scene, cameras):
    field = DeformationField(cameras, DeformationConfig(rows=8), scene.means)
    with torch.no_grad():
        field.grid[4, 0, :, 0] = 1.0  # the leftmost column moves right
    moved = field.deformed(scene, 5).means[:, 0] - scene.means[:, 0]
    u = cameras.select(5).project(scene.means)[0][0, :, 0] / cameras.width
    # Of 8 rows and 12 columns the first is centred at 1/24, the next at 3/24.
    left, rest = moved[u < 1 / 24], moved[u > 3 / 24]
    assert len(left) and (left > 0.5).all() and len(rest) and (rest == 0).all()


MARGIN_PX = 8


def distorted(wide: torch.Tensor, largest_px: float, seed: int) -> torch.Tensor:
    """Each frame but the first bent smoothly in a way of its own, more and more along the clip: the last by
    `largest_px` to the right or left and as much up or down, root mean square.

    wide: with a margin, so that what is bent into a frame is what is there.
    """
    g = torch.Generator().manual_seed(seed)
    count, _, height, width = wide.shape
    inner = height - 2 * MARGIN_PX, width - 2 * MARGIN_PX
    bend = F.interpolate(torch.randn(count, 2, 3, 4, generator=g), inner, mode="bicubic")
    bend = bend / bend.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    grow = torch.linspace(0, largest_px, count)[:, None, None, None]
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in inner), indexing="ij")
    at = torch.stack([columns, rows]).float() + 0.5 + MARGIN_PX + grow * bend
    grid = 2 * at / torch.tensor([width, height])[:, None, None] - 1
    return F.grid_sample(wide, grid.movedim(1, -1), padding_mode="border", align_corners=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [930_000_000, 930_000_001, 930_000_002])
def test_distortion_aware_is_better_on_undistorted_views_by_1_5_db(seed):
    """On the true frames after the input and four views beside the path: 20 of 32x48, none of them shown."""
    height, width = 32, 48
    size = {"height": height + 2 * MARGIN_PX, "width": width + 2 * MARGIN_PX}
    views = {"num_frames": 17, "num_near": 4, "num_far": 0}
    clip = make_clip(seed, SceneConfig(**size, **views, travel=(0.15, 0.45)))
    inner = (..., slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))
    cameras = clip.cameras.crop(MARGIN_PX, MARGIN_PX, height, width)
    truth, path = clip.frames[inner], cameras.select(list(range(17)))
    frames = distorted(clip.frames[:17], 3.0, seed)
    assert torch.allclose(frames[0], truth[0], atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    start = gaussians_from_depth(
        frames,
        path,
        clip.depth[:17][inner],
        StartConfig(num_gaussians=2000, opacity=0.5),
        generator,
    )
    evidence = gather_evidence(frames, path, EvidenceConfig(), seed=0)
    sampler = CameraSampler(path, 1.0, CameraSamplerConfig())

    def unseen(deformation: DeformationConfig | None) -> float:
        config = RefineConfig(iterations=500, frames_per_step=4, deformation=deformation)
        refined = Refinement(start, sampler, evidence, None, config, seed=0).run()
        drawn = render(refined, cameras, background=GREY).frames
        return float(-10 * (drawn - truth)[1:].square().mean((1, 2, 3)).log10().mean())

    plain, aware = unseen(None), unseen(DeformationConfig())
    print(f"plain {plain:.2f} dB, distortion-aware {aware:.2f} dB")
    assert aware > plain + 1.5

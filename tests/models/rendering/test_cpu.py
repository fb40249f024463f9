"""The CPU rasteriser against the float64 reference: values, all gradients, and determinism."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, stack_cameras
from models.gaussians import Gaussians, stack_gaussians
from models.rendering import cpu
from models.rendering.render import render

TOLERANCE = 1e-4
SCENES = (
    "plain",
    "needles",
    "specks",
    "giants",
    "outside the frustum",
    "near plane",
    "saturated",
    "many layers",
    "equal depths",
)


@pytest.fixture(autouse=True)
def keep_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def outputs_and_gradients(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor | None,
    dtype: torch.dtype,
    **options: object,
) -> dict[str, Tensor]:
    """What `render` gives in `dtype`, and gradients of a random linear loss of all of it, by name."""
    names = [*gaussians.tensors(), "world_to_camera"]
    tensors = [*gaussians.tensors().values(), cameras.world_to_camera]
    inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
    if background is not None:
        names, inputs = [*names, "background"], [*inputs, background.to(dtype).requires_grad_()]
    picture = render(
        Gaussians(*inputs[:5]),
        replace(cameras, world_to_camera=inputs[5]).to(dtype),
        background=inputs[6] if background is not None else None,
        **options,
    )
    generator = torch.Generator().manual_seed(11)
    outputs = {"frames": picture.frames, "depth": picture.depth, "alpha": picture.alpha}
    loss = sum(
        (torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype) * t).sum()
        for t in outputs.values()
    )
    gradients = torch.autograd.grad(loss, inputs)
    named = dict(zip((f"gradient of {name}" for name in names), gradients, strict=True))
    return {name: t.detach() for name, t in (outputs | named).items()}


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, truth in expected.items():
        error = (actual[name].double() - truth).norm() / truth.norm().clamp(min=1e-12)
        assert error < TOLERANCE, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("kind", SCENES)
def test_agrees_with_the_reference(scene_factory, kind: str) -> None:
    gaussians, cameras = scene_factory(kind)
    background = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.0, 0.3]])
    expected = outputs_and_gradients(
        gaussians, cameras, background, torch.float64, backend="reference"
    )
    assert expected["alpha"].max() > 0.1
    actual = outputs_and_gradients(gaussians, cameras, background, torch.float32, backend="cpu")
    assert_agree(actual, expected)


@pytest.mark.parametrize("kind", ["plain", "specks", "needles"])
def test_agrees_when_antialiased(scene_factory, kind: str) -> None:
    gaussians, cameras = scene_factory(kind)
    options = {"antialiased": True, "eps2d": 0.4, "near": 2.3, "far": 3.6}
    expected = outputs_and_gradients(
        gaussians, cameras, None, torch.float64, backend="reference", **options
    )
    actual = outputs_and_gradients(
        gaussians, cameras, None, torch.float32, backend="cpu", **options
    )
    assert_agree(actual, expected)


@pytest.mark.parametrize("degree", [0, 3])
def test_agrees_with_spherical_harmonics(scene_factory, degree: int) -> None:
    gaussians, cameras = scene_factory(sh_degree=degree)
    expected = outputs_and_gradients(gaussians, cameras, None, torch.float64, backend="reference")
    actual = outputs_and_gradients(gaussians, cameras, None, torch.float32, backend="cpu")
    assert_agree(actual, expected)


def test_agrees_on_many_tiles_and_chunks(scene_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MIN_CHUNK", 32)
    gaussians, cameras = scene_factory(num_gaussians=400, num_views=1)
    cameras = cameras.resize(66, 98)
    expected = outputs_and_gradients(gaussians, cameras, None, torch.float64, backend="reference")
    actual = outputs_and_gradients(gaussians, cameras, None, torch.float32, backend="cpu")
    assert_agree(actual, expected)


def render_float32(gaussians: Gaussians, cameras: Cameras) -> dict[str, Tensor]:
    background = torch.tensor([0.1, 0.6, 0.4])
    return outputs_and_gradients(gaussians, cameras, background, torch.float32, backend="cpu")


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_same_bits_for_any_number_of_threads(scene_factory, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "MIN_CHUNK", 64)
    gaussians, cameras = scene_factory(num_gaussians=900)
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        results.append(render_float32(gaussians, cameras))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_several_python_threads_at_once(scene_factory) -> None:
    torch.set_num_threads(2)
    scenes = [scene_factory(kind) for kind in ("plain", "giants", "needles", "many layers")] * 2
    alone = [render_float32(*scene) for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scene: render_float32(*scene), scenes))
    for first, second in zip(alone, together, strict=True):
        assert_same_bits(first, second)


def send_frames(connection, gaussians: Gaussians, cameras: Cameras) -> None:
    frames = render_float32(gaussians, cameras)["frames"]
    connection.send_bytes(frames.numpy().tobytes())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_works_in_a_forked_process(scene_factory) -> None:
    """As in a data loader's worker, forked after this process rendered with threads of its own."""
    torch.set_num_threads(2)
    gaussians, cameras = scene_factory()
    here = render_float32(gaussians, cameras)["frames"]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=send_frames, args=(sender, gaussians, cameras))
    worker.start()
    assert receiver.poll(60), "the forked process did not answer"
    assert receiver.recv_bytes() == here.numpy().tobytes()
    worker.join(60)
    assert worker.exitcode == 0


def test_passes_over_views_change_nothing(scene_factory, monkeypatch) -> None:
    gaussians, cameras = scene_factory(num_views=5, sh_degree=1)
    at_once = render_float32(gaussians, cameras)
    monkeypatch.setattr(cpu, "MAX_ROWS", 2 * gaussians.num_gaussians)
    in_passes = render_float32(gaussians, cameras)
    for name, tensor in at_once.items():
        torch.testing.assert_close(in_passes[name], tensor, rtol=1e-4, atol=1e-4)
    assert torch.equal(in_passes["frames"], at_once["frames"])


def test_a_batch_is_its_scenes(scene_factory) -> None:
    scenes = [scene_factory(kind) for kind in ("plain", "specks", "giants")]
    gaussians = stack_gaussians([g for g, _ in scenes]).to(torch.float32)
    cameras = stack_cameras([c for _, c in scenes]).to(torch.float32)
    background = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(5))
    batched = render(gaussians, cameras, background=background, backend="cpu")
    for i, (one, views) in enumerate(scenes):
        alone = render(
            one.to(torch.float32), views.to(torch.float32), background=background[i], backend="cpu"
        )
        assert torch.equal(batched.frames[i], alone.frames)
        assert torch.equal(batched.depth[i], alone.depth)


def test_strided_and_double_inputs(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    plain = render(gaussians.to(torch.float32), cameras.to(torch.float32), backend="cpu")
    strided = Gaussians(
        **{
            name: t.to(torch.float32).repeat_interleave(2, dim=0)[::2]
            for name, t in gaussians.tensors().items()
        }
    )
    strided = replace(strided, means=strided.means.T.contiguous().T)
    assert not strided.quats.is_contiguous()
    assert torch.equal(
        render(strided, cameras.to(torch.float32), backend="cpu").frames, plain.frames
    )
    double = render(gaussians, cameras, backend="cpu")
    assert double.frames.dtype == torch.float64
    assert torch.equal(double.frames, plain.frames.double())


@pytest.mark.parametrize("offset", [0.0, -10.0])
def test_nothing_to_see(scene_factory, offset: float) -> None:
    """No Gaussians at all, or all behind the cameras: background, zero gradients."""
    gaussians, cameras = scene_factory(num_gaussians=0 if offset == 0 else 20)
    gaussians = replace(gaussians, means=gaussians.means + torch.tensor([0, 0, offset]))
    result = render_float32(gaussians, cameras)
    assert (result["alpha"] == 0).all()
    assert (result["depth"] == 0).all()
    assert torch.equal(result["frames"][0, :, 0, 0], torch.tensor([0.1, 0.6, 0.4]))
    for name in ("means", "quats", "scales", "opacities", "colors", "world_to_camera"):
        assert (result[f"gradient of {name}"] == 0).all()


def test_broken_gaussians_are_dropped(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    nan, infinite = float("nan"), float("inf")
    broken = Gaussians(*(t.clone() for t in gaussians.tensors().values()))
    kept = torch.ones(gaussians.num_gaussians, dtype=torch.bool)
    for i, (tensor, value) in enumerate(
        (tensor, value)
        for tensor in (
            broken.means, broken.quats, broken.scales, broken.opacities, broken.colors
        )
        for value in (nan, infinite, -infinite, 1e38)
        if not (tensor is broken.opacities and value > 0)
        and not (tensor is broken.colors and value == 1e38)
        and not (tensor is broken.quats and value == 1e38)
    ):  # fmt: skip
        tensor[5 * i] = value
        kept[5 * i] = False
    broken.quats[200] = 0
    kept[200] = False
    actual = render_float32(broken, cameras)
    expected = render_float32(gaussians.select(kept), cameras)
    assert torch.equal(actual["frames"], expected["frames"])
    for name in gaussians.tensors():
        gradient = actual[f"gradient of {name}"]
        assert torch.equal(gradient[kept], expected[f"gradient of {name}"])
        assert (gradient[~kept] == 0).all(), name


def test_huge_gaussians_cover_each_tile_once(scene_factory, monkeypatch) -> None:
    """However large, a splat costs no more than the image has tiles; beyond the limit, one clear sentence."""
    gaussians, cameras = scene_factory()
    gaussians = replace(gaussians, scales=gaussians.scales * 1e4)
    num_visible = int((cameras.project(gaussians.means)[1] > 0.01).sum())
    num_tiles = 2 * 2
    monkeypatch.setattr(cpu, "MAX_PAIRS", num_visible * num_tiles + 1)
    assert render(gaussians, cameras, backend="cpu").frames.isfinite().all()
    monkeypatch.setattr(cpu, "MAX_PAIRS", num_visible * num_tiles)
    with pytest.raises(UserError, match=r"250 Gaussians cover \d+ tiles .* render fewer views"):
        render(gaussians, cameras, backend="cpu")


def test_broken_cameras_do_not_crash(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    cameras.world_to_camera[0, 0, 0] = float("nan")
    result = render_float32(gaussians, cameras)
    assert (result["alpha"][0] == 0).all()
    assert (result["alpha"][1] > 0).any()


def test_only_the_gradients_that_are_asked_for(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    gaussians = gaussians.to(torch.float32)
    gaussians.colors.requires_grad_()
    picture = render(gaussians, cameras.to(torch.float32), backend="cpu")
    picture.frames.sum().backward()
    # The frames are linear in the colours, with the weights as gradient.
    assert gaussians.colors.grad is not None
    total = picture.alpha.sum().expand(3)
    torch.testing.assert_close(gaussians.colors.grad.sum(dim=0), total, rtol=1e-4, atol=0)
    with torch.no_grad():
        assert not render(gaussians, cameras.to(torch.float32), backend="cpu").frames.requires_grad


def test_changing_an_input_before_backward_is_noticed(scene_factory) -> None:
    gaussians, cameras = scene_factory()
    gaussians = gaussians.to(torch.float32)
    scales = gaussians.scales.clone().requires_grad_()
    stepped = scales * 1
    picture = render(replace(gaussians, scales=stepped), cameras.to(torch.float32), backend="cpu")
    stepped.detach().mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        picture.frames.sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [-1, 2])
@pytest.mark.parametrize("kind", SCENES)
def test_agrees_with_gsplat(scene_factory, kind: str, antialiased: bool, degree: int) -> None:
    gaussians, cameras = scene_factory(kind, sh_degree=degree)
    background = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.0, 0.3]])
    options = {"antialiased": antialiased}
    expected = outputs_and_gradients(
        gaussians, cameras, background, torch.float32, backend="cpu", **options
    )
    on_gpu = outputs_and_gradients(
        gaussians.to("cuda"),
        cameras.to("cuda"),
        background.to("cuda"),
        torch.float32,
        backend="gsplat",
        **options,
    )
    assert_agree({name: t.cpu() for name, t in on_gpu.items()}, expected)

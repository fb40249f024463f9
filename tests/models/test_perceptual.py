from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from models.perceptual import PerceptualLoss, load_lpips, outline_lpips
from models.torchvision_compat import TORCHVISION

pytestmark = pytest.mark.skipif(TORCHVISION == "absent", reason="torchvision is not installed")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory):
    """A file with the keys and shapes of torchvision's AlexNet, of random values."""
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_distance_is_the_packages_own_over_our_weights(backbone) -> None:
    import lpips

    frames, target = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    ours = PerceptualLoss(backbone, "alex")(frames, target)
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(backbone, weights_only=True)
    for name, parameter in package.net.named_parameters():
        parameter.data.copy_(state["features." + name.split(".", 1)[1]])
    expected = package(frames * 2 - 1, target * 2 - 1).mean()
    torch.testing.assert_close(ours, expected)
    assert PerceptualLoss(backbone, "alex")(frames, frames).abs() < 1e-6


def test_gradient_reaches_the_frames_and_not_the_network(backbone) -> None:
    loss = PerceptualLoss(backbone, "alex")
    frames = torch.rand(1, 3, 64, 64, requires_grad=True)
    loss(frames, torch.rand(1, 3, 64, 64)).backward()
    assert frames.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())


def test_groups_of_frames_change_nothing_but_memory(backbone) -> None:
    target = torch.rand(5, 3, 64, 64)
    frames = [
        torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]
    kept: list[int] = []
    for images, at_once in zip(frames, (None, 2), strict=True):
        images.requires_grad_()
        sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        )
        with hooks:
            loss = PerceptualLoss(backbone, "alex", at_once=at_once)(images, target)
        loss.backward()
        kept.append(sum(sizes))
    torch.testing.assert_close(frames[1].grad, frames[0].grad)
    assert kept[1] < 0.3 * kept[0]


def test_an_outline_has_the_networks_shapes_and_no_weights(backbone) -> None:
    outline = outline_lpips("alex")
    network = load_lpips("alex", backbone)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert {name: tuple(p.shape) for name, p in outline.named_parameters()} == shapes
    assert all(p.is_meta and not p.requires_grad for p in outline.parameters())


def test_bad_weights_are_named(backbone, tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth is missing"):
        load_lpips("alex", tmp_path / "nowhere.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"broken\.pth is not a readable"):
        load_lpips("alex", broken)
    with pytest.raises(UserError, match="no fitting"):
        load_lpips("vgg", backbone)

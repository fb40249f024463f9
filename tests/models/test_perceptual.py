from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from models.perceptual import PerceptualLoss, load_lpips
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


def test_bad_weights_are_named(backbone, tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth is missing"):
        load_lpips("alex", tmp_path / "nowhere.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"broken\.pth is not a readable"):
        load_lpips("alex", broken)
    with pytest.raises(UserError, match="no fitting"):
        load_lpips("vgg", backbone)

"""Feature networks against the libraries that they come from, over random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from configs.errors import UserError
from eval.images.feature_networks import InceptionNetwork, VideoNetwork, as_bytes
from eval.images.metric_weights import WeightsFile


class OwnPreprocessing(nn.Module):
    """Takes what StyleGAN-V's I3D takes, and gives back what it was given."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        flags = torch.tensor([[float(rescale), float(resize), float(return_features)]])
        return torch.cat([flags, x.amax(dim=(2, 3, 4)), x[:, :, 0, 0, 0]], dim=1)


class Plain(nn.Module):
    """Its features are what it sees: size, range and the first frame's corner."""

    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        if videos.shape[2] < 4:
            raise RuntimeError("kernel is larger than the input")
        size = torch.tensor([videos.shape[2:]]).float()
        ends = torch.stack([videos.min(), videos.max()])[None]
        return torch.cat([size, ends, videos[:, :, 0, 0, 0]], dim=1)


class Wrong(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def frames() -> torch.Tensor:
    frames = torch.rand(5, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    frames[0, :, 0, 0] = torch.tensor([0.0, 0.5, 1.0])
    return frames


@pytest.fixture
def scripted(tmp_path):
    """Saves a module as TorchScript."""

    def save(module: nn.Module) -> WeightsFile:
        path = tmp_path / "network.pt"
        torch.jit.script(module).save(path)
        return WeightsFile(path, "ab" * 32, published=False)

    return save


@pytest.fixture(scope="module")
def inception(inception_file) -> WeightsFile:
    return WeightsFile(inception_file, "cd" * 32, published=True)


def test_bytes_are_what_a_file_would_hold():
    levels = torch.arange(256) / 255
    frames = levels.reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert as_bytes(frames)[0, 0].flatten().tolist() == list(range(256))
    assert as_bytes(1.001 * frames).max() == 255


@pytest.mark.parametrize("antialias", [True, False])
def test_inception_is_torchmetrics_own(frames, inception, antialias):
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = InceptionNetwork(inception, 64, antialias)
    library = NoTrainInceptionV3("library", ["64"], str(inception.path), antialias)
    found = network.features(frames)
    assert found.shape == (5, 64) and found.dtype == torch.float32
    torch.testing.assert_close(found, library(as_bytes(frames)))
    assert "cdcdcd" in network.label and "layer 64" in network.label
    assert ("not antialiased" in network.label) != antialias


def test_inception_has_the_layer_of_fid(frames, inception):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    found = InceptionNetwork(inception).features(frames[:1])
    library = FeatureExtractorInceptionV3("library", ["2048"], str(inception.path))
    assert found.shape == (1, 2048)
    torch.testing.assert_close(found, library(as_bytes(frames[:1]))[0], rtol=1e-3, atol=1e-4)


def test_a_file_of_something_else_is_not_inception(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(UserError, match="other.pth does not hold the Inception v3 of FID"):
        InceptionNetwork(WeightsFile(path, "", False))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="other.pth is not a readable weights file"):
        InceptionNetwork(WeightsFile(path, "", False))


def test_a_network_that_prepares_frames_itself_gets_bytes(frames, scripted):
    network = VideoNetwork(scripted(OwnPreprocessing()))
    assert network.prepares_itself
    found = network.features(frames)
    assert found.shape == (1, 9)
    assert found[0, :3].tolist() == [1, 1, 1]
    assert found[0, 3:6].tolist() == as_bytes(frames).amax(dim=(0, 2, 3)).tolist()
    assert found[0, 6:].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "corner"),
    [("-1..1", [-1, 128 / 127.5 - 1, 1]), ("0..1", [0, 128 / 255, 1]), ("0..255", [0, 128, 255])],
)
def test_any_other_network_gets_the_frames_that_the_recipe_says(frames, scripted, values, corner):
    unresized = VideoNetwork(scripted(Plain()), size=None, values=values).features(frames)[0]
    assert unresized[:3].tolist() == [5, 12, 20]
    assert unresized[5:].tolist() == pytest.approx(corner, abs=1e-6)
    resized = VideoNetwork(scripted(Plain()), size=32, values=values).features(frames)[0]
    assert resized[:3].tolist() == [5, 32, 32]


def test_features_are_the_same_however_often_they_are_taken(frames, scripted):
    """TorchScript would fuse after a few calls."""
    torch.manual_seed(0)
    network = VideoNetwork(
        scripted(
            nn.Sequential(nn.Conv3d(3, 8, 3), nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        ),
        size=None,
    )
    first = network.features(frames)
    assert first.shape == (1, 8)
    assert all(torch.equal(network.features(frames), first) for _ in range(4))


def test_what_is_wrong_with_a_video_network_is_said(frames, scripted, tmp_path):
    network = VideoNetwork(scripted(Plain()))
    with pytest.raises(
        UserError, match=r"network.pt fails on a video of 3 frames of 12x20: .*kernel"
    ):
        network.features(frames[:3])
    network = VideoNetwork(scripted(Wrong()), size=16)
    with pytest.raises(UserError, match=r"gives \(1, 3, 5, 16, 16\) .* expected one row"):
        network.features(frames)
    for name, content in (("text.pt", b"no module"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a TorchScript module"):
            VideoNetwork(WeightsFile(tmp_path / name, "", False))

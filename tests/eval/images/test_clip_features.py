from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from eval.images.clip_features import ClipFeatures, FeatureFolder, extract_features

LABELS = {"frames": "network 1", "video": "network 2"}


class Means:
    """A row of channel means a frame."""

    label = "means"

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean(dim=(2, 3))


class Refuses:
    label = "refuses"

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        raise UserError("too few frames")


class Overflows:
    label = "overflows"

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean(dim=(2, 3)) / 0


@pytest.fixture
def features() -> ClipFeatures:
    generator = torch.Generator().manual_seed(0)
    rows = tuple(torch.randn(4, 7, generator=generator) for _ in range(2))
    return ClipFeatures({"frames": rows}, {"video": "too few frames"})


def test_what_a_network_cannot_take_is_missing_with_its_reason():
    frames = torch.rand(4, 3, 8, 8)
    networks = {"frames": Means(), "video": Refuses(), "other": Overflows()}
    found = extract_features(frames, frames.flip(0), networks)
    assert found.missing["video"] == "too few frames" and "not finite" in found.missing["other"]
    generated, reference = found.features["frames"]
    assert torch.equal(generated, frames.mean(dim=(2, 3))) and torch.equal(
        reference.flip(0), generated
    )


def test_features_come_back_as_they_went(features, tmp_path):
    folder = FeatureFolder(tmp_path / "new" / "features", LABELS)
    folder.write(3, features)
    found = FeatureFolder(folder.folder, LABELS).read(3)
    assert found.missing == features.missing and set(found.features) == {"frames"}
    for before, after in zip(features.features["frames"], found.features["frames"], strict=True):
        assert torch.equal(before, after)
    folder.write(3, ClipFeatures({}, {"frames": "a", "video": "b"}))
    assert folder.read(3).features == {}
    assert [path.name for path in folder.folder.iterdir()] == ["000003.safetensors"]


def test_the_same_features_make_the_same_file(features, tmp_path):
    folders = [FeatureFolder(tmp_path / name, LABELS) for name in "ab"]
    for folder in folders:
        folder.write(0, features)
    assert folders[0].path(0).read_bytes() == folders[1].path(0).read_bytes()


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"000007.safetensors is missing: clip 7 .* restart=true"):
        FeatureFolder(tmp_path, LABELS).read(7)


def test_features_of_another_network_are_refused(features, tmp_path):
    FeatureFolder(tmp_path, LABELS).write(0, features)
    with pytest.raises(UserError, match="other networks .*network 1.*network 9"):
        FeatureFolder(tmp_path, {**LABELS, "frames": "network 9"}).read(0)
    with pytest.raises(UserError, match="other networks"):
        FeatureFolder(tmp_path, {"frames": "network 1"}).read(0)


def test_any_damage_is_found(features, tmp_path):
    folder = FeatureFolder(tmp_path, LABELS)
    folder.write(0, features)
    path = folder.path(0)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in (0, 5, 100, len(whole) // 2, len(whole) - 1)]
    for place in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError, match="000000.safetensors"):
            folder.read(0)
    path.write_bytes(whole)
    folder.read(0)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(features, tmp_path):
    (tmp_path / "features").write_text("a file")
    with pytest.raises(UserError, match="can't be written"):
        FeatureFolder(tmp_path / "features", LABELS).write(0, features)

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from configs.errors import UserError
from models.published_weights import (
    I3D,
    I3D_SHA256,
    INCEPTION,
    LPIPS_BACKBONES,
    file_name,
    file_sha256,
    published_sha256,
    read_state_dict,
)
from models.torchvision_compat import mend_torchvision


def test_names_and_hashes_are_read_off_the_addresses():
    assert file_name(INCEPTION) == "weights-inception-2015-12-05-6726825d.pth"
    assert file_name(I3D) == "i3d_torchscript.pt"
    assert published_sha256(INCEPTION) == "6726825d" and published_sha256(I3D) == I3D_SHA256
    assert [published_sha256(LPIPS_BACKBONES[name]) for name in ("alex", "vgg")] == [
        "7be5be79",
        "397923af",
    ]


def test_addresses_are_the_libraries_own():
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    mend_torchvision()
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert fidelity.URL_INCEPTION_V3 == INCEPTION
    assert AlexNet_Weights.IMAGENET1K_V1.url == LPIPS_BACKBONES["alex"]
    assert VGG16_Weights.IMAGENET1K_V1.url == LPIPS_BACKBONES["vgg"]


def test_files_are_read_without_unpickling_anything_else(tmp_path):
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert read_state_dict(tmp_path / name)["a"].tolist() == [0, 1, 2]

    class Runs:
        def __reduce__(self):
            return print, ("unpickled",)

    torch.save({"a": Runs()}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Runs()))
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    for name in ("code.pth", "plain.pth", "list.pth"):
        with pytest.raises(UserError, match=f"{name} is not a readable weights file"):
            read_state_dict(tmp_path / name)
    with pytest.raises(UserError, match="nowhere.pth is missing"):
        read_state_dict(tmp_path / "nowhere.pth")


def test_hash_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()

"""What a texture needs in memory, and what is said where it is not there."""

from __future__ import annotations

import re

import pytest
import torch

from configs.errors import UserError
from data.cameras import Cameras, intrinsics_from_fov
from models.meshing.texture_memory import check_texture_memory, num_pixels, texture_bytes

GIB = 2**30


def test_a_texture_that_does_not_fit_is_refused_with_one_that_does():
    check_texture_memory(1024, 10**6, GIB)
    with pytest.raises(UserError, match=r"8192x8192 needs .* and 8\.0 GiB are free") as told:
        check_texture_memory(8192, 10**6, 8 * GIB)
    found = re.search(r"--texture (\d+) would fit", str(told.value))
    assert found is not None
    fits = int(found.group(1))
    check_texture_memory(fits, 10**6, 8 * GIB)
    with pytest.raises(UserError):
        check_texture_memory(fits + 64, 10**6, 8 * GIB)
    with pytest.raises(UserError, match="no texture fits"):
        check_texture_memory(1024, 10**6, 10**8)
    with pytest.raises(UserError, match="no texture fits.*smaller views"):
        check_texture_memory(64, 10**9, GIB)


def test_the_need_grows_with_texels_and_pixels():
    texels = texture_bytes(2048, 0) - texture_bytes(1024, 0)
    assert texels == 3 * 1024**2 * (texture_bytes(1, 0) - texture_bytes(0, 0))
    assert texture_bytes(0, 2000) - texture_bytes(0, 1000) == 1000 * (
        texture_bytes(0, 1) - texture_bytes(0, 0)
    )
    # Eight float images of three channels is the least that a fit by conjugate gradients keeps.
    assert texture_bytes(1024, 0) > 8 * 3 * 4 * 1024**2
    lens = intrinsics_from_fov(45.0, 16, 24).expand(3, 3, 3)
    assert num_pixels(Cameras(torch.eye(4).repeat(3, 1, 1), lens, 16, 24)) == 3 * 16 * 24

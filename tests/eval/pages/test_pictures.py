"""Pictures: the colour scales say what they claim, grids put images where the labels say."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from eval.pages import pictures


def test_depth_colours_go_from_light_to_dark_in_inverse_depth():
    depth = 1 / torch.linspace(1, 0.1, 50)[None]
    picture = pictures.color_depth(depth, near=1.0, far=10.0)
    brightness = picture.mean(dim=0)[0]
    assert (brightness.diff() < 0).all()
    middle = pictures.color_depth(torch.tensor([[1 / 0.55]]), near=1.0, far=10.0)
    halfway = torch.tensor([int(pictures.DEPTH_COLOURS[3][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert torch.allclose(middle[:, 0, 0], halfway, atol=1e-5)


def test_unknown_depth_is_grey():
    depth = torch.tensor([[0.0, float("nan"), float("inf"), 2.0, 3.0]])
    picture = pictures.color_depth(depth)
    grey = torch.tensor(pictures.UNKNOWN_COLOUR)[:, None].expand(3, 3)
    assert torch.allclose(picture[:, 0, :3], grey)
    assert not torch.allclose(picture[:, 0, 3], grey[:, 0])
    assert torch.allclose(pictures.color_depth(torch.zeros(2, 2))[:, 0, 0], grey[:, 0])


def test_error_is_black_for_none_and_brightest_from_the_top_of_the_scale():
    truth = torch.zeros(3, 1, 3)
    frames = truth + torch.tensor([0.0, pictures.ERROR_TOP, 1.0])
    picture = pictures.color_error(frames, truth)
    assert picture[:, 0, 0].tolist() == [0, 0, 0]
    assert torch.equal(picture[:, 0, 1], picture[:, 0, 2])
    assert picture[:, 0, 1].mean() > 0.9


def test_png_round_trip_is_exact_to_eight_bits():
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    read = np.asarray(Image.open(io.BytesIO(pictures.png_bytes(image))))
    assert np.array_equal(read, (image * 255).round().byte().movedim(0, -1).numpy())


def test_grid_places_rows_and_columns():
    colours = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]]])
    images = colours.float()[..., None, None].expand(2, 3, 3, 4, 6)
    grid = pictures.draw_grid([list(row) for row in images], ["up", "down"], ["a", "b", "c"], 60)
    pixels = np.asarray(grid)
    cell, gap, height = 60, 6, 40
    left, top = pixels.shape[1] - 3 * (cell + gap), pixels.shape[0] - 2 * (height + gap)
    for row in range(2):
        for column in range(3):
            y, x = top + row * (height + gap) + 20, left + column * (cell + gap) + 30
            assert pixels[y, x].tolist() == (colours[row, column] * 255).tolist()

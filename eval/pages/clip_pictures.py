"""A scored clip in pictures: the same few views as truth, render, error and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.clips import Clip
from eval.pages.pictures import color_depth, color_error, depth_range, draw_grid
from eval.scores.scoring import OURS, ClipResult

GROUP_NAMES = {"seen": "given", "unseen": "new, near", "far": "new, far"}
METHOD_NAMES = {
    "lalrm": "LaLRM",
    "copy": "copy",
    "median_depth": "median depth",
    "polish": "LaLRM, polished",
    "fit": "3DGS fit",
    "autoencoder": "autoencoder",
}


@dataclass(frozen=True)
class PictureGrid:
    """Rows of equally sized images [3 h w] in [0, 1], with labels."""

    rows: list[list[Float[Tensor, "3 h w"]]]
    row_labels: list[str]
    column_labels: list[str]

    def draw(self, cell_width: int = 288) -> Image.Image:
        return draw_grid(self.rows, self.row_labels, self.column_labels, cell_width)


def pictured_views(groups: dict[str, list[int]], per_group: int = 2) -> dict[int, str]:
    """A few views of each group, evenly spread, each once: view to its group, in the groups' order."""
    chosen: dict[int, str] = {}
    for group in ("far", "seen", "unseen"):  # a far view may be among the unseen: it shows as far
        for view in spread([v for v in groups[group] if v not in chosen], per_group):
            chosen[view] = group
    order = list(GROUP_NAMES)
    return dict(sorted(chosen.items(), key=lambda item: (order.index(item[1]), item[0])))


def compare_grid(clip: Clip, result: ClipResult, per_group: int = 2) -> PictureGrid:
    """Truth, LaLRM, its error and its depth (beside the true one, where known) of a few views."""
    views = pictured_views(result.score.groups, per_group)
    drawn, depth = result.frames[OURS], result.depth
    true_depth = clip.depth if has_dense_depth(clip) else None
    span = depth_range(depth if true_depth is None else true_depth)
    rows = [
        [clip.frames[view] for view in views],
        [drawn[view] for view in views],
        [color_error(drawn[view], clip.frames[view]) for view in views],
        [color_depth(depth[view], *span) for view in views],
    ]
    labels = ["truth", METHOD_NAMES[OURS], "error", "depth"]
    if true_depth is not None:
        rows.append([color_depth(true_depth[view], *span) for view in views])
        labels.append("true depth")
    psnr = result.score.psnr[OURS]
    columns = [f"{GROUP_NAMES[group]}: {psnr[view]:.1f} dB" for view, group in views.items()]
    return PictureGrid(rows, labels, columns)


def has_dense_depth(clip: Clip) -> bool:
    """Whether depth is known nearly everywhere, not only at the sparse points of a capture."""
    return clip.depth is not None and float((clip.depth > 0).float().mean()) > 0.5


def method_grid(clip: Clip, result: ClipResult, per_group: int = 2) -> PictureGrid:
    """The truth, and every method's picture of a few views that were not given; grey where it has none."""
    groups = {**result.score.groups, "seen": []}
    views = pictured_views(groups, per_group) or pictured_views(result.score.groups, per_group)
    methods = [name for name in METHOD_NAMES if name in result.frames and name != "autoencoder"]
    rows = [[clip.frames[view] for view in views]]
    rows += [
        [torch.nan_to_num(result.frames[name][view], nan=0.5) for view in views] for name in methods
    ]
    columns = [f"{GROUP_NAMES[group]} ({view})" for view, group in views.items()]
    return PictureGrid(rows, ["truth", *(METHOD_NAMES[name] for name in methods)], columns)


def spread(items: Sequence[int], count: int) -> list[int]:
    """Up to `count` of `items`, evenly spaced, first and last among them, in order."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

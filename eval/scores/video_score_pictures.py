"""A scored scene in pictures: truth, generated video and rendered scene, along its own path and the mirrored one."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from data.durable_files import write_durably
from data.importers.video import write_video
from eval.pages.clip_pictures import PictureGrid, spread
from eval.pages.pictures import png_bytes
from eval.scores.score_run import picture_file
from eval.scores.video_scoring import PATHS, SCENE, VIDEO, PathFrames

SHOWN = {"true_frames": "truth", VIDEO: "video", SCENE: "scene"}
NUM_COLUMNS = 5
CELL_WIDTH = 128
FPS = 8
MIN_HEIGHT = 128
"""Frames of the videos are enlarged to about this height [px]."""


def write_scene_pictures(pictures: Path, item: int, pair: tuple[PathFrames, PathFrames]) -> None:
    """Writes a scene's picture (PNG) and its video (MP4)."""
    drawn = scene_grid(pair).draw(CELL_WIDTH)
    write_durably(picture_file(pictures, item), png_bytes(drawn))
    write_video(side_by_side(pair), picture_file(pictures, item, ".mp4"), FPS)


def scene_grid(pair: tuple[PathFrames, PathFrames]) -> PictureGrid:
    """Time from left to right; truth, video and scene of one path above those of the other."""
    views = spread(range(pair[0].clip.num_frames), NUM_COLUMNS)
    rows = [[one.frames[name][view] for view in views] for one in pair for name in SHOWN]
    labels = [f"{path}: {label}" for path in PATHS for label in SHOWN.values()]
    return PictureGrid(rows, labels, [f"frame {view}" for view in views])


def side_by_side(pair: tuple[PathFrames, PathFrames]) -> Float[Tensor, "t 3 double_h triple_w"]:
    """A video: truth, video and scene from left to right, the own path above the mirrored one."""
    rows = [torch.cat([one.frames[name] for name in SHOWN], dim=-1) for one in pair]
    frames = torch.cat(rows, dim=-2)
    factor = max(1, round(MIN_HEIGHT / pair[0].clip.cameras.height))
    return F.interpolate(frames, scale_factor=factor, mode="bicubic").clamp(0, 1)

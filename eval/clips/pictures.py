"""A scored clip in pictures: frames by their reference, the fitted scene by what it was to predict, the path."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.durable_files import write_durably
from data.importers.video import write_video
from eval.clips.measures import MeasuredClip
from eval.clips.path_overlay import draw_paths
from eval.consistency.measure import ConsistencyResult
from eval.pages.clip_pictures import PictureGrid, spread
from eval.pages.pictures import color_depth, color_error, depth_range, png_bytes
from eval.reconstruction import render_scene
from eval.scores.score_run import picture_file

NUM_COLUMNS = 5
CELL_WIDTH = 200
FPS = 8
VIDEO_HEIGHT = 192
"""Frames of the videos are brought to about this height [px]."""
SCENE, PATH = "_scene.png", "_path.png"
"""How the names of the other pictures of a clip end."""


def write_clip_pictures(pictures: Path, item: int, measured: MeasuredClip) -> None:
    """Writes a clip's pictures (PNG) and its video (MP4); those of groups that have no result are left out."""
    write_durably(
        picture_file(pictures, item), png_bytes(frames_grid(measured).draw(_cell(measured)))
    )
    write_video(side_by_side(measured), picture_file(pictures, item, ".mp4"), FPS)
    write_result_pictures(pictures, item, measured)


def write_result_pictures(
    pictures: Path, item: int, measured: MeasuredClip, infix: str = ""
) -> None:
    """Writes what the fitted scene predicts and where the camera was, as far as that is known; removes older ones.

    infix: of the names of the files, where an item has several clips.
    """
    scene, path = (picture_file(pictures, item, infix + suffix) for suffix in (SCENE, PATH))
    for file in (scene, path):
        file.unlink(missing_ok=True)
    if (result := measured.consistency) is not None:
        drawn = scene_grid(result).draw(_cell(measured))
        write_durably(scene, png_bytes(drawn))
    if (picture := path_picture(measured)) is not None:
        write_durably(path, png_bytes(picture))


def path_picture(measured: MeasuredClip) -> Image.Image | None:
    """The commanded path and the one found by features, or else by pixels; None where there is neither."""
    commanded, camera, pixels = measured.frames.cameras, measured.camera, measured.photometric
    if commanded is None:
        return None
    if camera is not None and camera.found is not None and len(camera.placed) > 1:
        return draw_paths(commanded, camera.found, camera.placed)
    if pixels is not None and pixels.found is not None:
        return draw_paths(commanded, pixels.found, pixels.views)
    return None


def frames_grid(measured: MeasuredClip) -> PictureGrid:
    """Time from left to right; under the frames the reference's, and the difference."""
    frames, reference = measured.frames.frames, _reference(measured)
    views = spread(range(len(frames)), NUM_COLUMNS)
    rows, labels = [[frames[view] for view in views]], ["frames"]
    if reference is not None:
        rows.append([reference[view] for view in views])
        rows.append([color_error(frames[view], reference[view]) for view in views])
        labels += ["reference", "error"]
    return PictureGrid(rows, labels, [f"frame {view}" for view in views])


def scene_grid(result: ConsistencyResult) -> PictureGrid:
    """Held-out views, what the scene fitted to the other views shows there, the difference, and its depth."""
    places = spread(range(len(result.judged)), NUM_COLUMNS)
    views = [result.judged[place] for place in places]
    depth = render_scene(
        result.gaussians, result.clip.cameras.select(views).to(result.gaussians.means.device)
    ).expected_depth.cpu()
    span = depth_range(depth) if bool((depth > 0).any()) else (None, None)
    truth, drawn = result.clip.frames[views], result.drawn[places].cpu()
    rows = [
        list(truth),
        list(drawn),
        [color_error(a, b) for a, b in zip(drawn, truth, strict=True)],
        list(color_depth(depth, *span)),
    ]
    values = result.score.generated.held_out.metrics["psnr"]
    assert isinstance(values, list)
    columns = [
        f"view {view}: {values[place]:.1f} dB" for place, view in zip(places, views, strict=True)
    ]
    return PictureGrid(rows, ["held out", "scene", "error", "depth"], columns)


def side_by_side(measured: MeasuredClip) -> Float[Tensor, "t 3 h many_w"]:
    """A video: the frames, the reference, and the fitted scene along the same cameras, as far as there are any."""
    parts = [measured.frames.frames.float()]
    reference = _reference(measured)
    if reference is not None:
        parts.append(reference.float())
    height, width = parts[0].shape[-2:]
    size = (VIDEO_HEIGHT, max(2, round(width * VIDEO_HEIGHT / height)))
    strips = [F.interpolate(part, size, mode="bilinear", antialias=True) for part in parts]
    result = measured.consistency
    if result is not None and result.clip.num_frames == len(strips[0]):
        cameras = result.clip.cameras.to(result.gaussians.means.device)
        drawn = render_scene(result.gaussians, cameras).frames.cpu().float()
        strips.append(F.interpolate(drawn, size, mode="bilinear", antialias=True))
    return torch.cat(strips, dim=-1).clamp(0, 1)


def _reference(measured: MeasuredClip) -> Float[Tensor, "t 3 h w"] | None:
    reference = measured.frames.reference
    return (
        reference
        if reference is not None and reference.shape == measured.frames.frames.shape
        else None
    )


def _cell(measured: MeasuredClip) -> int:
    """The cells' width, so that upright pictures are not higher than wide ones."""
    height, width = measured.frames.frames.shape[-2:]
    return max(64, round(CELL_WIDTH * min(1.0, width / height)))

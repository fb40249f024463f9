"""A video whose cameras stand in a `transforms.json`, one entry a frame, as one capture."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from configs.errors import UserError
from data.clips import Clip
from data.importers.images import write_image
from data.importers.nerfstudio import read_nerfstudio
from data.importers.video import iterate_video


def read_video_with_cameras(video: Path, cameras: Path, height: int, width: int) -> Clip:
    """As `read_nerfstudio`, but entry i's image is frame i of the video, whatever file it names.

    Raises UserError where frames and entries differ in number, and for all that either reader refuses.
    """
    try:
        content = json.loads(cameras.read_text(encoding="utf-8-sig"))
        entries = content["frames"]
        num_entries = len(entries)
    except FileNotFoundError as error:
        raise UserError(f"{cameras}: no such file; expected a transforms.json") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{cameras} is not a transforms.json: expected a JSON object with a list 'frames'"
        ) from error
    with tempfile.TemporaryDirectory(prefix="video-") as work:
        folder = Path(work)
        num_frames = 0
        for frame in iterate_video(video):
            if num_frames < num_entries:
                name = f"{num_frames:06d}.png"
                write_image(frame, folder / name)
                entries[num_frames] = {**entries[num_frames], "file_path": name}
            num_frames += 1
        if num_frames != num_entries:
            raise UserError(
                f"{video} has {num_frames} frames but {cameras} has {num_entries} entries; expected one"
                " entry a frame"
            )
        rewritten = folder / cameras.name
        rewritten.write_text(json.dumps(content), encoding="utf-8")
        clip = read_nerfstudio(rewritten, height, width)
    return Clip(clip.frames, clip.cameras, video.stem, clip.num_path_frames, clip.caption)

"""One training sample of the video task: a window of a clip as latents or frames, with its cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clip_windows import Window, WindowConfig, load_window, window_cameras
from data.shard_samples import ShardClip
from models.autoencoders.latent_shards import LATENTS, SCALE_SUFFIX
from models.video.text_shards import StoredText


class VideoSample:
    """Turns a lazy clip into one sample; runs in the loader's workers.

    stored: take a window whose latents are stored, instead of decoding frames.
    text: take the clip's stored text embedding along, or for a share of `text_dropout` the empty prompt's.
    """

    def __init__(
        self,
        windows: WindowConfig,
        *,
        stored: bool,
        text: StoredText | None = None,
        text_dropout: float = 0.0,
    ) -> None:
        self.windows, self.stored = windows, stored
        self.text, self.text_dropout = text, text_dropout

    def __call__(self, handle: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        sample = (
            self._latents(handle, generator) if self.stored else self._frames(handle, generator)
        )
        if self.text is not None:
            dropped = float(torch.rand((), generator=generator)) < self.text_dropout
            sample["text"] = self.text.empty if dropped else self.text.of(handle)
        return sample

    def _frames(self, handle: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        window = self.windows.draw(handle.num_path_frames, generator)
        clip = load_window(handle, window, self.windows.num_frames)
        return {"frames": clip.frames, **camera_tensors(clip.cameras)}

    def _latents(self, handle: ShardClip, generator: torch.Generator) -> dict[str, Tensor]:
        tensors = handle.tensors(LATENTS)
        found = [window for key in tensors if (window := Window.from_key(key)) is not None]
        windows = self.windows.among(found)
        if not windows:
            raise UserError(
                f"{handle.file}: no stored latents of clip {handle.key} are of a window that"
                f" task.windows allows; stored are {', '.join(sorted(w.key for w in found))}"
            )
        window = windows[int(torch.randint(len(windows), (), generator=generator))]
        scale = float(tensors[window.key + SCALE_SUFFIX])
        cameras = window_cameras(handle, window, self.windows.num_frames, scale)
        return {"latents": tensors[window.key].float(), **camera_tensors(cameras)}


def camera_tensors(cameras: Cameras) -> dict[str, Tensor]:
    """The tensors of one clip's cameras by their names in a batch."""
    return {"world_to_camera": cameras.world_to_camera, "intrinsics": cameras.intrinsics}

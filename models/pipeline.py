"""From one image to a scene: the whole path in one object.

    pipeline = ImageToScenePipeline.from_pretrained("models/weights/tiny")
    scene = pipeline("photo.jpg", "orbit", seed=0)
    save_ply(scene.gaussians, "scene.ply")

The unit of length is the scene unit: the median depth of what the image shows is 1 (`data.importers.photo`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from configs.errors import UserError
from data.camera_paths import make_path
from data.cameras import Cameras, stack_cameras
from data.clips import Clip
from data.importers.images import WHITE, to_rgb
from data.importers.photo import Photo, open_photo, photo_from_frame
from data.importers.recorded_path import check_steps
from models.autoencoders.cogvideox import CogVideoXAutoencoder
from models.autoencoders.files import save_autoencoder
from models.autoencoders.identity import check_latents
from models.autoencoders.interface import SPATIAL_FACTOR, VideoAutoencoder
from models.gaussians import Gaussians
from models.generated_scene import GeneratedScene, SceneDraft
from models.lalrm import LaLRM
from models.pipeline_files import (
    PartFolders,
    PartNames,
    load_parts,
    read_pipeline_file,
    write_pipeline_file,
)
from models.stopwatch import Stopwatch
from models.video.base import save_base
from models.video.camera_branch_files import save_branches
from models.video.clip_chain import cut_into_clips
from models.video.clip_poses import PoseEstimator
from models.video.guidance import check_negative_prompt
from models.video.model import VideoModel
from models.video.sampling import (
    OffloadMode,
    OnStep,
    SamplingConfig,
    SamplingStep,
    VideoSampler,
)


class ImageToScenePipeline:
    """An image and a camera path become a video, its latents, and Gaussians.

    A video model draws latents of what the moving camera sees, and LaLRM turns these latents, as they are, into
    Gaussians; frames are decoded only to be looked at, and to start the next clip of a long path.
    """

    def __init__(
        self,
        autoencoder: VideoAutoencoder,
        model: VideoModel,
        lalrm: LaLRM,
        *,
        sampling: SamplingConfig | None = None,
        tokenizer: Any = None,
        text_encoder: Any = None,
    ) -> None:
        """sampling: the defaults of this pipeline. Raises UserError where the models do not fit each other."""
        base, config = model.base, lalrm.config
        check_latents(autoencoder, base.latent_channels, base.latent_probes, "the video model")
        check_latents(autoencoder, config.latent_channels, config.latent_probes, "LaLRM")
        self.autoencoder, self.model, self.lalrm = autoencoder, model, lalrm.eval()
        self.sampling = sampling or SamplingConfig()
        self.sampler = VideoSampler(model, tokenizer=tokenizer, text_encoder=text_encoder)
        self._offloads = False

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        parts: PartFolders | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ImageToScenePipeline:
        """The pipeline in a folder, or of parts, or of a folder with some parts in the place of its own.

        dtype: of the video model and its text encoder. Raises UserError that names what is missing, does not
        load, or does not fit.
        """
        folders, sampling = PartFolders(), SamplingConfig()
        if folder is not None:
            folders, sampling = read_pipeline_file(Path(folder))
        loaded = load_parts(folders.replaced(parts or PartFolders()), dtype)
        return cls(**vars(loaded), sampling=sampling)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes all parts and `pipeline.json`, last; `dtype` is that of the video model's and LaLRM's files."""
        folder = Path(folder)
        branches, text = self.model.branches, self.sampler.pipeline.text_encoder
        save_autoencoder(self.autoencoder, folder / "autoencoder")
        save_base(self.model.base, folder / "video_base", dtype)
        if branches is not None:
            save_branches(branches, folder / "camera_branches", dtype)
        self.lalrm.save_pretrained(folder / "lalrm", dtype)
        if text is not None:
            self.sampler.pipeline.tokenizer.save_pretrained(folder / "text" / "tokenizer")
            text.save_pretrained(folder / "text" / "text_encoder")
        names = PartNames(
            autoencoder="autoencoder",
            video_base="video_base",
            camera_branches=None if branches is None else "camera_branches",
            lalrm="lalrm",
            text_encoder=None if text is None else "text",
        )
        write_pipeline_file(folder, names, self.sampling)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width [px] that the video model was trained at."""
        config = self.model.base.transformer.config
        return config.sample_height * SPATIAL_FACTOR, config.sample_width * SPATIAL_FACTOR

    @property
    def clip_frames(self) -> int:
        """Frames of one clip, as the video model was trained; longer paths are chains."""
        return self.model.base.transformer.config.sample_frames

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self.sampler.pipeline._execution_device

    def to(self, device: torch.device | str) -> ImageToScenePipeline:
        """Moves all models."""
        self.sampler.to(device)
        for network in (self.autoencoder, self.lalrm):
            if isinstance(network, nn.Module):
                network.to(device)
        return self

    def offload(self, mode: OffloadMode, device: torch.device | str | None = None) -> None:
        """Keeps weights in the computer's memory and runs them on an accelerator; see `VideoSampler.offload`.

        The autoencoder and LaLRM are moved there while they run; a CogVideoX autoencoder works in tiles.
        """
        self.sampler.offload(mode, device)
        self._offloads = True
        if isinstance(self.autoencoder, CogVideoXAutoencoder):
            self.autoencoder.vae.enable_tiling()

    def __call__(
        self,
        image: str | Path | Photo | Image.Image | Float[Tensor, "3 h w"],
        cameras: str | Cameras = "orbit",
        *,
        amplitude: float | int | None = None,
        easing: str = "linear",
        num_frames: int | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        focal_35mm: float | int | None = None,
        poses: PoseEstimator | None = None,
        on_step: OnStep | None = None,
    ) -> GeneratedScene:
        """The scene of one image along one camera path.

        image: a file, Pillow's or RGB in [0, 1], or a `Photo`.
        cameras: a named path (`data.camera_paths`) with its amplitude, easing and number of frames (8k+1; by
            default those of one clip), or cameras `[v]` at `frame_size`, in scene units.
        sampling: None takes the pipeline's defaults.
        focal_35mm: the image's focal length; see `open_photo`.
        poses: see `generate`.
        """
        photo = image if isinstance(image, Photo) else self.photo(image, focal_35mm=focal_35mm)
        if isinstance(cameras, str):
            num_frames = num_frames or self.clip_frames
            cameras = make_path(cameras, photo.camera, num_frames, amplitude, easing=easing)
        return self.generate(
            [photo],
            [cameras],
            [seed],
            sampling=sampling,
            prompt=prompt,
            negative_prompt=negative_prompt,
            poses=poses,
            on_step=on_step,
        )[0]

    def photo(
        self,
        image: str | Path | Image.Image | Float[Tensor, "3 h w"],
        *,
        focal_35mm: float | int | None = None,
    ) -> Photo:
        """An image at the models' size, with its camera; raises UserError as `open_photo` does."""
        if isinstance(image, Image.Image):
            image = to_rgb(image, WHITE, "image")
        if isinstance(image, Tensor):
            return photo_from_frame(image, *self.frame_size, focal_35mm=focal_35mm)
        return open_photo(image, *self.frame_size, focal_35mm=focal_35mm)

    @torch.no_grad()
    def generate(
        self,
        photos: Sequence[Photo],
        paths: Sequence[Cameras],
        seeds: Sequence[int],
        *,
        sampling: SamplingConfig | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        poses: PoseEstimator | None = None,
        on_step: OnStep | None = None,
    ) -> list[GeneratedScene]:
        """Scenes of several images at once, each with its own path and seed; paths have one length.

        poses: looks at the frames of each clip for where its cameras are; where it says that they are elsewhere, the
            clip is reconstructed there, and the rest of the path goes on from there. None trusts the path.

        A scene does not depend on what it is made together with, but for rounding. Raises UserError where paths
        and images do not fit each other or the models.
        """
        assert len(photos) == len(paths) == len(seeds) and photos
        sampling = sampling or self.sampling
        paths = [_checked(path, photo) for path, photo in zip(paths, photos, strict=True)]
        clips = cut_into_clips(_one_length(paths), self.clip_frames)
        if negative_prompt:
            check_negative_prompt(sampling.guidance, self.model.branches is not None)
        text, negative_text = self._texts(prompt, negative_prompt)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        watch = Stopwatch(self.device)
        drafts = [
            SceneDraft(photo, path.to(self.device))
            for photo, path in zip(photos, paths, strict=True)
        ]
        for number, views in enumerate(clips):
            cameras = stack_cameras([draft.clip_cameras(views) for draft in drafts])
            with self._running(self.autoencoder), watch("encode image"):
                image_latents = self._encode([draft.last_frame for draft in drafts])
            with watch("sample video"):
                latents = self.sampler.sample(
                    image_latents,
                    len(views),
                    generators,
                    sampling,
                    cameras=cameras if self.model.branches is not None else None,
                    text=text,
                    negative_text=negative_text,
                    on_step=_of_chain(on_step, number, len(clips)),
                )
            with self._running(self.autoencoder), watch("decode video"):
                frames = self._decode(latents)
            if poses is not None:
                with watch("estimate poses"):
                    shown = frames.cpu().clamp(0, 1)
                    for index, draft in enumerate(drafts):
                        commanded = draft.clip_cameras(views).to("cpu")
                        draft.follow(views, poses(shown[index], commanded))
                cameras = stack_cameras([draft.clip_cameras(views) for draft in drafts])
            with self._running(self.lalrm), watch("reconstruct"):
                gaussians = self.lalrm(latents, cameras)
            with watch("measure unit"):
                for index, draft in enumerate(drafts):
                    draft.add(views, latents[index], frames[index], gaussians.sample(index))
                    if number + 1 < len(clips):
                        draft.measure_unit(views[-1])
        return [draft.scene(watch.seconds, self._notes(clips)) for draft in drafts]

    @torch.no_grad()
    def reconstruct(self, clip: Clip) -> Gaussians:
        """LaLRM's scene of a clip's own path frames, for comparison with what is generated."""
        views = list(range(clip.num_path_frames))
        cameras = stack_cameras([clip.cameras.select(views)]).to(self.device)
        frames = clip.frames[None, views].to(self.device, _dtype_of(self.autoencoder))
        with self._running(self.autoencoder):
            latents = self.autoencoder.encode(frames).float()
        with self._running(self.lalrm):
            return self.lalrm(latents, cameras).sample(0)

    @torch.no_grad()
    def preview(self, latents: Float[Tensor, "b c p h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        """Frames of latents, finished or in the making (`SamplingStep.clean`)."""
        with self._running(self.autoencoder):
            return self._decode(latents)

    def _encode(self, frames: list[Tensor]) -> Float[Tensor, "b c 1 h_ w_"]:
        stacked = torch.stack(frames)[:, None].to(self.device, _dtype_of(self.autoencoder))
        return self.autoencoder.encode(stacked).float()

    def _decode(self, latents: Float[Tensor, "b c p h_ w_"]) -> Float[Tensor, "b t 3 h w"]:
        return self.autoencoder.decode(latents.to(_dtype_of(self.autoencoder))).float()

    def unprompted_text(self) -> Float[Tensor, "1 n e"] | None:
        """The embedding that stands for no prompt; None where that is zeros, which the video model takes by itself."""
        return self._texts(None, None)[0]

    def _texts(
        self, prompt: str | None, negative: str | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings of prompt and negative prompt, the latter where there is one of them to guide by.

        A model with a text encoder was trained with the embedding of the empty prompt, any other with zeros.
        """
        if self.sampler.pipeline.text_encoder is None and not (prompt or negative):
            return None, None
        text = self.sampler.encode_text(prompt or "")
        return text, self.sampler.encode_text(negative or "") if prompt or negative else None

    def _notes(self, clips: list[range]) -> Iterator[str]:
        if self.model.branches is None:
            yield "the video model has no camera branches: the video does not follow the path"
        if len(clips) > 1:
            yield (
                f"the path is cut into {len(clips)} clips of up to {self.clip_frames} frames; each starts from"
                " the last frame of the one before"
            )
        if len(clips[-1]) < self.clip_frames:
            yield f"the last clip has {len(clips[-1])} frames; the video model was trained on {self.clip_frames}"

    @contextmanager
    def _running(self, network: Any) -> Iterator[None]:
        """Has a network on the accelerator while weights are kept off it."""
        if not (self._offloads and isinstance(network, nn.Module)):
            yield
            return
        network.to(self.device)
        try:
            yield
        finally:
            network.to("cpu")


def _checked(path: Cameras, photo: Photo) -> Cameras:
    """A path relative to its first camera; raises UserError where it makes no sense for the photo."""
    source = f"camera path of {photo.source}"
    if path.world_to_camera.ndim != 3:
        raise UserError(
            f"{source}: expected one path [view 4 4], found {list(path.world_to_camera.shape)}"
        )
    if (path.height, path.width) != (photo.camera.height, photo.camera.width):
        raise UserError(
            f"{source}: its cameras are for frames of {path.height}x{path.width}, the image is"
            f" {photo.camera.height}x{photo.camera.width}; resize them"
        )
    path = path.validate(source).to(torch.float64).relative_to(0).to(torch.float32)
    check_steps(path, source)
    return path


def _one_length(paths: Sequence[Cameras]) -> int:
    lengths = sorted({path.num_views for path in paths})
    if len(lengths) > 1:
        raise UserError(f"paths made together have one length; found {lengths}")
    return lengths[0]


def _of_chain(on_step: OnStep | None, clip: int, num_clips: int) -> OnStep | None:
    """Reports the steps of one clip as steps of the whole chain."""
    if on_step is None:
        return None

    def report(step: SamplingStep) -> None:
        on_step(SamplingStep(clip * step.total + step.done, num_clips * step.total, step.clean))

    return report


def _dtype_of(network: Any) -> torch.dtype:
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.float32 if parameter is None else parameter.dtype

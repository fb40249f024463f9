"""How a scene made from one image compares with the truth: a clip whose other views are known.

Only the clip's first frame and the path's cameras go in. Beside the scene stand what needs no model, and the
ceiling: the scene that LaLRM makes of the true frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.clips import Clip
from data.importers.photo import Photo
from eval.images import metrics
from eval.reconstruction import render_scene
from eval.scores import baselines
from models.gaussians import Gaussians
from models.generated_scene import GeneratedScene
from models.pipeline import ImageToScenePipeline
from models.video.sampling import OnStep, SamplingConfig

OURS = "scene"
METHODS = {
    OURS: "scene from one image",
    "video": "generated video",
    "still": "the image, repeated",
    "median_depth": "the image at its median depth",
    "ceiling": "LaLRM given the true frames",
}
GROUPS = {"path": "along the path", "beside": "beside the path"}


@dataclass(frozen=True)
class ImageToScene:
    """A scene from one image, and every method's pictures of the clip's views.

    frames: per method; NaN where it has none (the video, beside the path).
    groups: views of the clip, without the first, which went in.
    psnr [dB], ssim, lpips: means by method and group; a method that has no pictures there is left out.
        lpips is None where its weights are not there.
    """

    scene: GeneratedScene
    photo: Photo
    frames: dict[str, Float[Tensor, "v 3 h w"]]
    groups: dict[str, list[int]]
    psnr: dict[str, dict[str, float]]
    ssim: dict[str, dict[str, float]]
    lpips: dict[str, dict[str, float]] | None


@torch.no_grad()
def image_to_scene(
    clip: Clip,
    pipeline: ImageToScenePipeline,
    *,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    on_step: OnStep | None = None,
) -> ImageToScene:
    """Makes a scene of a clip's first frame along its own path, and compares all views with the truth.

    clip: normalised, at the pipeline's frame size. Raises UserError where it does not suit the pipeline.
    """
    photo, path = photo_of(clip), path_of(clip)
    (scene,) = pipeline.generate([photo], [path], [seed], sampling=sampling, on_step=on_step)
    frames = method_frames(clip, scene, pipeline.reconstruct(clip))
    num_path = clip.num_path_frames
    groups = {
        "path": list(range(1, num_path)),
        "beside": list(range(num_path, clip.num_frames)),
    }
    perceptual = {name: metrics.lpips(x, clip.frames) for name, x in frames.items()}
    return ImageToScene(
        scene,
        photo,
        frames,
        groups,
        psnr=_means({name: metrics.psnr(x, clip.frames) for name, x in frames.items()}, groups),
        ssim=_means({name: metrics.ssim(x, clip.frames) for name, x in frames.items()}, groups),
        lpips=None
        if perceptual[OURS] is None
        else _means({name: x for name, x in perceptual.items() if x is not None}, groups),
    )


def photo_of(clip: Clip) -> Photo:
    """A clip's first frame, as the one image that goes in."""
    return Photo(clip.frames[0], clip.cameras.select([0]), clip.source)


def path_of(clip: Clip) -> Cameras:
    """The cameras along a clip's path."""
    return clip.cameras.select(list(range(clip.num_path_frames)))


def method_frames(
    clip: Clip, scene: GeneratedScene, ceiling: Gaussians
) -> dict[str, Float[Tensor, "v 3 h w"]]:
    """Every method's pictures of all views of a clip, on the CPU; NaN where it has none.

    scene: made of the clip's first frame along its path. ceiling: the scene of its true frames.
    """
    given = clip.select([0])
    video = torch.full_like(clip.frames, float("nan"))
    video[: clip.num_path_frames] = scene.video.cpu()
    depths = baselines.frame_depths(given, [0])
    return {
        OURS: _draw(scene.gaussians, clip),
        "video": video,
        "still": given.frames.expand_as(clip.frames).contiguous(),
        "median_depth": baselines.median_depth(given.frames, given.cameras, clip.cameras, depths),
        "ceiling": _draw(ceiling, clip),
    }


def _draw(scene: Gaussians, clip: Clip) -> Float[Tensor, "v 3 h w"]:
    return render_scene(scene, clip.cameras.to(scene.means.device)).frames.cpu()


def _means(
    values: dict[str, Float[Tensor, " v"]], groups: dict[str, list[int]]
) -> dict[str, dict[str, float]]:
    """By method and group, over the group's views; without groups that are empty or not drawn."""
    found: dict[str, dict[str, float]] = {}
    for name, per_view in values.items():
        means = {group: per_view[views].mean() for group, views in groups.items() if views}
        found[name] = {group: float(mean) for group, mean in means.items() if mean.isfinite()}
    return found

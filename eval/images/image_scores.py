"""The image metrics of one clip, frame by frame against its reference, and their means over clips.

Every number is the library's own (torchmetrics, lpips); means of PSNR are means of decibels, as papers give them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from eval.images import metrics
from eval.images.frame_checks import check_pair
from eval.images.metric_weights import WeightsFile, find_weights
from eval.scores.measured import KEY, NotAvailable, mean, to_json
from eval.scores.protocols import FrameProtocol
from models.perceptual import SMALLEST_SIDE, Backbone, lpips_problem
from models.published_weights import LPIPS_BACKBONES

FULL_SCALES = len(metrics.MS_SSIM_WEIGHTS)
PerView = list[float] | NotAvailable


class ImageScoreConfig(Config):
    """Which learned measures run beside PSNR, SSIM and MS-SSIM, and where their weights are."""

    lpips: tuple[Backbone, ...] = Field(("alex", "vgg"), description="backbones")
    lpips_alex: Path | None = Field(
        None, description="AlexNet's weights as torchvision publishes them; null: torch's cache"
    )
    lpips_vgg: Path | None = Field(
        None, description="VGG-16's weights as torchvision publishes them; null: torch's cache"
    )


@dataclass(frozen=True)
class ImageScores:
    """What was measured on one clip.

    views: the clip's frames that were compared, by number. metrics: one value a view by the metric's name, or why
    there is none. Names: psnr [dB], ssim, ms_ssim, lpips_alex, lpips_vgg; frames too small for the five scales
    of MS-SSIM have no ms_ssim but an ms_ssim_3 (of so many scales), which is another measure.
    """

    views: list[int]
    metrics: dict[str, PerView]

    def means(self) -> dict[str, float | NotAvailable]:
        """The mean over views of each metric."""
        return {name: _mean(values) for name, values in self.metrics.items()}

    def line(self) -> dict[str, Any]:
        """Plain JSON: the views, and of each metric the mean and the values per view, or why there is none."""
        found = {
            name: values
            if isinstance(values, NotAvailable)
            else {"mean": _mean(values), "per_view": values}
            for name, values in self.metrics.items()
        }
        return {"views": self.views, **to_json(found)}


class ImageMetrics:
    """The image metrics as a recipe asks for them, their weights found and loaded once.

    key: of `config` in the recipe with a dot after it, for messages. Raises UserError where a file that the recipe
    names is missing or does not hold the weights.
    """

    def __init__(self, config: ImageScoreConfig, key: str = "") -> None:
        given = {"alex": config.lpips_alex, "vgg": config.lpips_vgg}
        problem = lpips_problem() if config.lpips else None
        self.weights: dict[Backbone, WeightsFile | NotAvailable] = {}
        for backbone in config.lpips:
            found = (
                NotAvailable(problem)
                if problem
                else find_weights(
                    LPIPS_BACKBONES[backbone],
                    given[backbone],
                    f"LPIPS ({backbone})",
                    f"{key}lpips_{backbone}",
                )
            )
            if isinstance(found, WeightsFile):
                metrics.lpips_network(
                    backbone, found.path
                )  # what is wrong with the file is told at once
            self.weights[backbone] = found

    @property
    def identity(self) -> dict[str, str]:
        """What the numbers depend on besides the frames: a label of each backbone's weights."""
        return {
            f"lpips_{name}": "not available" if isinstance(file, NotAvailable) else file.label
            for name, file in self.weights.items()
        }

    def score(
        self,
        frames: Float[Tensor, "t 3 h w"],
        reference: Float[Tensor, "u 3 g v"],
        source: str,
        protocol: FrameProtocol | None = None,
    ) -> ImageScores:
        """The scores of a clip's frames against the reference's, both in [0, 1] and of one size and number.

        Only the protocol's frames are looked at; None takes all. Raises UserError, which names `source`, for
        frames that do not fit their reference, that are too few for the protocol, or that cannot be scored
        (`eval.images.frame_checks`).
        """
        views = list((protocol or FrameProtocol()).similarity_views(len(frames), source))
        check_pair(frames, reference, source, views)
        shown, truth = frames[views], reference[views]
        found: dict[str, PerView] = {"psnr": metrics.psnr(shown, truth).tolist()}
        found |= _similarities(shown, truth)
        for backbone in self.weights:
            found[f"lpips_{backbone}"] = self._lpips(backbone, shown, truth)
        return ImageScores(views, found)

    def _lpips(self, backbone: Backbone, frames: Tensor, truth: Tensor) -> PerView:
        weights, (height, width) = self.weights[backbone], frames.shape[-2:]
        if isinstance(weights, NotAvailable):
            return weights
        if min(height, width) < (side := SMALLEST_SIDE[backbone]):
            return NotAvailable(
                f"frames of {height}x{width} are too small for LPIPS ({backbone}), which takes {side}x{side}"
                " and more"
            )
        values = metrics.lpips(frames, truth, backbone, weights.path)
        assert values is not None  # the file was there when the run began
        return values.tolist()


def summarise(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of each metric the mean over all views of all clips, from the clips' lines (`ImageScores.line`).

    With it `views` and `clips`, how many the mean is of; `left_out` counts the clips that lack it by the reason.
    A metric that no clip has is not available, for the first reason.
    """
    rows = list(lines)
    names = dict.fromkeys(name for row in rows for name in row if name != "views")
    summary: dict[str, Any] = {}
    for name in names:
        with_it = [row[name]["per_view"] for row in rows if name in row and KEY not in row[name]]
        reasons = [row[name][KEY] for row in rows if name in row and KEY in row[name]]
        if not with_it:
            summary[name] = {KEY: reasons[0]}
            continue
        values = [value for views in with_it for value in views]
        summary[name] = {"mean": to_json(mean(values)), "views": len(values), "clips": len(with_it)}
        if reasons:
            summary[name]["left_out"] = {why: reasons.count(why) for why in dict.fromkeys(reasons)}
    return summary


def _similarities(frames: Tensor, truth: Tensor) -> dict[str, PerView]:
    """SSIM and MS-SSIM, the latter under a name that says its scales where they are not all five."""
    height, width = frames.shape[-2:]
    scales = metrics.ms_ssim_scales(height, width)
    side = metrics.SSIM_WINDOW
    if scales == 0:
        too_small = f"frames of {height}x{width} are too small for SSIM's window of {side}x{side}"
        return {"ssim": NotAvailable(too_small), "ms_ssim": NotAvailable(too_small)}
    found: dict[str, PerView] = {"ssim": metrics.ssim(frames, truth).tolist()}
    values = metrics.ms_ssim(frames, truth, scales).tolist()
    if scales == FULL_SCALES:
        return {**found, "ms_ssim": values}
    full_side = side * 2 ** (FULL_SCALES - 1)
    found["ms_ssim"] = NotAvailable(
        f"frames of {height}x{width} are too small for MS-SSIM's five scales, which take {full_side}x{full_side}"
        " and more"
    )
    return {**found, f"ms_ssim_{scales}": values} if scales > 1 else found  # one scale is SSIM


def _mean(values: PerView) -> float | NotAvailable:
    return values if isinstance(values, NotAvailable) else mean(values)

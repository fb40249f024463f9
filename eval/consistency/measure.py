"""3D consistency: does one scene explain all views that a model generated of it?

3DiM's score (arXiv 2210.04628): a scene is fitted to a part of the generated views, the input view always among
them, and its renders are compared with the generated views that were held out. Nothing is compared with the truth,
so views may differ from it as long as they agree with each other.

Ours beside it:

- the input view is judged too, against a scene fitted to all views but it: in the fit, one view among many is
  simply outvoted, and views that agree with each other but not with the input would score as well as the truth;
- an upper bound (the same on real views), a lower bound (the same views, poses dealt out anew), and what a copy of
  the nearest view scores, since smooth scenes, blur and stillness all make PSNR high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from configs.loader import Config
from data.clips import Clip
from eval.consistency.fit import SceneFitConfig, fit_scene
from eval.consistency.scores import Consistency, ScenePrediction, join_predictions
from eval.consistency.views import (
    INPUT,
    copy_psnr,
    held_out_views,
    motion,
    overlap,
    prepare_clip,
    sharpness,
    shuffled_cameras,
)
from eval.images.frame_checks import check_pair
from eval.images.image_scores import ImageMetrics, ImageScoreConfig, ImageScores
from eval.reconstruction import render_scene
from eval.scores.measured import Measured, NotAvailable
from models.gaussians import Gaussians

LEAST_OVERLAP = 0.5
"""A view is judged where the fitted views show at least this much of it."""

Tell = Callable[[str], None]
"""Gets a few words on what is being done."""


class ConsistencyConfig(Config):
    """How the views are divided, and how a scene is fitted to them."""

    held_out_every: int = Field(4, ge=2, description="every so-manieth view is held out")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2, 3),
        min_length=1,
        description="of the fits; each holds out other views, as many as `held_out_every` hold out all in turn",
    )
    input_weight: float = Field(
        0.25, ge=0, lt=1, description="share of the score that the input view has; 0 leaves it out"
    )
    lower_bound: bool = Field(True, description="score the views with shuffled poses too")
    max_height: int = Field(128, ge=16, description="taller frames are reduced to it")
    max_views: int = Field(64, ge=5, description="of more views so many are taken, evenly spread")
    fit: SceneFitConfig = SceneFitConfig()
    images: ImageScoreConfig = ImageScoreConfig(lpips=("alex",))

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value) or min(value) < 0:
            raise ValueError(f"seeds are {list(value)}; expected each once, from 0 up")
        return value


@dataclass(frozen=True)
class ConsistencyResult:
    """The score, and what is needed to show it, of the first seed.

    clip: the views as scored, in scene units. judged: the held-out views, by their number in it; drawn: what the
    scene made of them. gaussians: that scene, in the axes of the input view.
    """

    score: Consistency
    clip: Clip
    judged: list[int]
    drawn: Float[Tensor, "v 3 h w"]
    gaussians: Gaussians


def measure_consistency(
    clip: Clip,
    config: ConsistencyConfig,
    *,
    reference: Clip | None = None,
    images: ImageMetrics | None = None,
    tell: Tell = lambda words: None,
) -> ConsistencyResult | NotAvailable:
    """The 3D consistency of a clip whose first frame is the input view.

    Where the image that a model was given is at hand, put it in the place of the first frame.
    reference: real views of the scene, one for each frame of the clip and of its size, for the upper bound.
    images: the image metrics, for who scores more clips with one config.

    NotAvailable where the views show too little in common. Raises UserError for frames or cameras that can't be
    scored (`eval.consistency.views.prepare_clip`), and for a reference that does not fit them.
    """
    images = images or ImageMetrics(config.images)
    truth = None
    if reference is not None:
        check_pair(clip.frames, reference.frames, clip.source)
        truth = prepare_clip(reference, config.max_height, config.max_views)
    clip = prepare_clip(clip, config.max_height, config.max_views)
    tell("fitting a scene")
    fits = predict_views(clip, config, images)
    if isinstance(fits, NotAvailable):
        return fits
    upper: ScenePrediction | NotAvailable = NotAvailable(
        "the upper bound needs real views of the scene: give a reference clip"
    )
    if truth is not None:
        tell("fitting the reference")
        upper = _joined(predict_views(truth, config, images))
    lower: ScenePrediction | NotAvailable = NotAvailable(
        "the lower bound was left out: set lower_bound=true"
    )
    if config.lower_bound:
        tell("fitting shuffled poses")
        shuffled = replace(clip, cameras=shuffled_cameras(clip.cameras, config.seeds[0]))
        lower = _joined(predict_views(shuffled, config, images, posed=clip))
    first, split = fits[0], fits[0].split
    score = Consistency(
        generated=join_predictions([fit.prediction for fit in fits]),
        upper=upper,
        lower=lower,
        seed_psnr=[fit.prediction.held_out_psnr for fit in fits],
        copy_psnr=copy_psnr(clip, split.judged, split.fitted),
        sharpness=_looks(sharpness, clip, truth) | {"input": sharpness(clip.frames[:1])},
        motion=_looks(motion, clip, truth),
        overlap=sum(split.overlap[view] for view in split.judged) / len(split.judged),
        travel=float(clip.cameras.positions.norm(dim=-1).max()),
        num_views=clip.num_frames,
        size=(clip.cameras.height, clip.cameras.width),
    )
    return ConsistencyResult(score, clip, split.judged, first.drawn, first.gaussians)


class ViewSplit:
    """Which views are fitted, held out, and judged with one seed, by the cameras' overlap."""

    def __init__(self, clip: Clip, config: ConsistencyConfig, seed: int) -> None:
        self.seed = seed
        held_out = held_out_views(clip.num_frames, config.held_out_every, seed)
        self.fitted = [view for view in range(clip.num_frames) if view not in held_out]
        self.overlap = {view: overlap(clip.cameras, view, self.fitted) for view in held_out}
        self.judged = [view for view, share in self.overlap.items() if share >= LEAST_OVERLAP]


@dataclass(frozen=True)
class ViewsFit:
    """What a scene fitted with one seed predicts. drawn: the judged views, as the scene shows them."""

    split: ViewSplit
    prediction: ScenePrediction
    drawn: Float[Tensor, "v 3 h w"]
    gaussians: Gaussians


def predict_views(
    clip: Clip, config: ConsistencyConfig, images: ImageMetrics, posed: Clip | None = None
) -> list[ViewsFit] | NotAvailable:
    """The held-out views of a prepared clip from scenes fitted to the others, seed by seed.

    With the first of them also the input view, from a scene fitted to all others. Seeds that hold out none of which
    the others show enough are left out; NotAvailable where that is each.
    posed: the clip with its true poses, which decide on the views that are judged; by default `clip`.
    """
    seen = posed or clip
    splits = [ViewSplit(seen, config, seed) for seed in config.seeds]
    judging = [split for split in splits if split.judged]
    if not judging:
        share = max(share for split in splits for share in split.overlap.values())
        return NotAvailable(
            "the views show too little in common: of no held-out view do the others show more than"
            f" {share:.0%}, and {LEAST_OVERLAP:.0%} is needed; take more views, or check the unit and the axes"
            " of the cameras"
        )
    unjudged = [NotAvailable("another seed judges it")] * (len(judging) - 1)
    of_input = [_predict_input(clip, seen, judging[0].seed, config, images), *unjudged]
    return [
        _predict_held_out(clip, split, config, images, score)
        for split, score in zip(judging, of_input, strict=True)
    ]


def _predict_held_out(
    clip: Clip,
    split: ViewSplit,
    config: ConsistencyConfig,
    images: ImageMetrics,
    of_input: dict[str, Measured] | NotAvailable,
) -> ViewsFit:
    gaussians = fit_scene(clip, split.fitted, config.fit, split.seed)
    drawn = _drawn(gaussians, clip)
    scored = images.score(drawn, clip.frames, clip.source)
    prediction = ScenePrediction(
        held_out=_of_views(scored, split.judged),
        input=of_input,
        fitted=_of_views(scored, split.fitted).means(),
        input_weight=config.input_weight,
    )
    return ViewsFit(split, prediction, drawn[split.judged], gaussians)


def _predict_input(
    clip: Clip, seen: Clip, seed: int, config: ConsistencyConfig, images: ImageMetrics
) -> dict[str, Measured] | NotAvailable:
    """The metrics of the input view. seen: the clip with the poses that decide whether it is judged."""
    if not config.input_weight:
        return NotAvailable("it has no share in the score (input_weight=0)")
    others = list(range(1, clip.num_frames))
    share = overlap(seen.cameras, INPUT, others)
    if share < LEAST_OVERLAP:
        return NotAvailable(f"the other views show only {share:.0%} of it")
    drawn = _drawn(fit_scene(clip, others, config.fit, seed), clip)
    return _of_views(images.score(drawn, clip.frames, clip.source), [INPUT]).means()


def _of_views(scores: ImageScores, views: list[int]) -> ImageScores:
    metrics = {
        name: values if isinstance(values, NotAvailable) else [values[view] for view in views]
        for name, values in scores.metrics.items()
    }
    return ImageScores(views, metrics)


def _joined(fits: list[ViewsFit] | NotAvailable) -> ScenePrediction | NotAvailable:
    if isinstance(fits, NotAvailable):
        return fits
    return join_predictions([fit.prediction for fit in fits])


def _drawn(gaussians: Gaussians, clip: Clip) -> Float[Tensor, "v 3 h w"]:
    device = gaussians.means.device
    return render_scene(gaussians, clip.cameras.to(device)).frames.to(clip.frames)


def _looks(measure: Callable[[Tensor], float], clip: Clip, truth: Clip | None) -> dict[str, float]:
    found = {"generated": measure(clip.frames[1:])}
    return found if truth is None else {**found, "reference": measure(truth.frames[1:])}

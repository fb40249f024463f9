"""The numbers of a clip's 3D consistency, and what a reader must know about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.images.image_scores import ImageScores
from eval.scores.measured import (
    KEY,
    Measured,
    NotAvailable,
    from_json,
    mean,
    num_available,
    to_json,
)

LEAST_SPAN_DB = 1.0
"""Bounds nearer to each other than this place nothing."""
HARDLY_ABOVE_COPY_DB = 1.0
HARDLY_ABOVE_SHUFFLED_DB = 1.0
BLURRED = 0.8
"""Sharpness below this share of the reference's, or of the input view's, is remarked on."""
STILL = 0.5
"""So is motion below this share of the reference's."""


METRICS = ("psnr", "ssim", "ms_ssim", "lpips")
"""How the names of the scores begin."""
MEANT = ("gain_db", "place", "copy_psnr")
PARTS = {
    "upper_psnr": ("upper", "psnr"),
    "lower_psnr": ("lower", "psnr"),
    "input_psnr": ("input", "psnr"),
}


@dataclass(frozen=True)
class ScenePrediction:
    """How well a scene fitted to some views predicts the others.

    held_out: of each judged view, by its number among the scored views.
    input: each metric of the input view, from a scene fitted to all others.
    fitted: the mean of each metric over the fitted views; far above the held-out ones', the scene learnt by heart.
    input_weight: the share of the score that the input view has.
    """

    held_out: ImageScores
    input: dict[str, Measured] | NotAvailable
    fitted: dict[str, Measured]
    input_weight: float

    def scores(self) -> dict[str, Measured]:
        """Each metric over the judged views, the input view with its share; all theirs where it has no value."""
        means = self.held_out.means()
        if isinstance(self.input, NotAvailable):
            return means
        found: dict[str, Measured] = {}
        for name, value in means.items():
            of_input = self.input[name]
            if isinstance(value, NotAvailable) or isinstance(of_input, NotAvailable):
                found[name] = value
            else:
                found[name] = (1 - self.input_weight) * value + self.input_weight * of_input
        return found

    @property
    def psnr(self) -> float:
        """The score [dB]."""
        return _number(self.scores()["psnr"])

    @property
    def held_out_psnr(self) -> float:
        """The mean over the held-out views alone [dB]: 3DiM's score."""
        return _number(self.held_out.means()["psnr"])

    def line(self) -> dict[str, Any]:
        """Plain JSON: the scores, and of held-out views, input view and fitted views what has a number."""
        views = {"views": self.held_out.views, **_numbers(self.held_out.metrics)}
        return {
            **to_json(self.scores()),
            "held_out": to_json(views),
            "input": to_json(
                self.input if isinstance(self.input, NotAvailable) else _numbers(self.input)
            ),
            "fitted": to_json(_numbers(self.fitted)),
        }


def join_predictions(parts: Sequence[ScenePrediction]) -> ScenePrediction:
    """One prediction of several seeds' views, one after another; the mean over the seeds that have it of the rest."""
    views = [view for part in parts for view in part.held_out.views]
    metrics: dict[str, list[float] | NotAvailable] = {}
    for name in parts[0].held_out.metrics:
        values = [part.held_out.metrics[name] for part in parts]
        why = next((value for value in values if isinstance(value, NotAvailable)), None)
        numbers = [v for value in values if not isinstance(value, NotAvailable) for v in value]
        metrics[name] = why or numbers
    inputs = [part.input for part in parts if not isinstance(part.input, NotAvailable)]
    return replace(
        parts[0],
        held_out=ImageScores(views, metrics),
        input=_means(inputs) if inputs else parts[0].input,
        fitted=_means([part.fitted for part in parts]),
    )


@dataclass(frozen=True)
class Consistency:
    """The 3D consistency of one clip, with what places it.

    generated: the score. upper: of the reference's views; lower: of the same views with shuffled poses.
    seed_psnr: what the held-out views of each seed alone score [dB].
    copy_psnr: of the nearest fitted view, copied to each judged one [dB].
    sharpness, motion: of the generated views and, where there is one, of the reference, as in
    `eval.consistency.views`; sharpness of the input view too.
    overlap: the share of the judged views that fitted ones show. travel: how far the cameras go from the first, in
    depths of the scene. size: of the frames as scored, height and width.
    """

    generated: ScenePrediction
    upper: ScenePrediction | NotAvailable
    lower: ScenePrediction | NotAvailable
    seed_psnr: list[float]
    copy_psnr: float
    sharpness: dict[str, float]
    motion: dict[str, float]
    overlap: float
    travel: float
    num_views: int
    size: tuple[int, int]

    @property
    def gain_db(self) -> Measured:
        """The score above the lower bound's [dB]: how much the poses explain, whatever the texture."""
        if isinstance(self.lower, NotAvailable):
            return self.lower
        return self.generated.psnr - self.lower.psnr

    @property
    def place(self) -> Measured:
        """Where the score stands between the bounds, in dB: 0 at the lower, 1 at the upper."""
        if isinstance(self.upper, NotAvailable):
            return self.upper
        if isinstance(self.lower, NotAvailable):
            return self.lower
        span = self.upper.psnr - self.lower.psnr
        if span < LEAST_SPAN_DB:
            return NotAvailable(
                f"real views score {span:.1f} dB above shuffled ones: too little to place anything between"
            )
        return (self.generated.psnr - self.lower.psnr) / span

    def line(self) -> dict[str, Any]:
        """Plain JSON, what `remarks` says included."""
        return {
            **self.generated.line(),
            "gain_db": to_json(self.gain_db),
            "place": to_json(self.place),
            "upper": _bound_line(self.upper),
            "lower": _bound_line(self.lower),
            "seed_psnr": to_json(self.seed_psnr),
            "copy_psnr": to_json(self.copy_psnr),
            "sharpness": to_json(self.sharpness),
            "motion": to_json(self.motion),
            "overlap": to_json(self.overlap),
            "travel": to_json(self.travel),
            "num_views": self.num_views,
            "size": list(self.size),
            "remarks": remarks(self),
        }


def summarise(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips, from their lines (`Consistency.line`, or `to_json` of a NotAvailable), as plain JSON.

    Each score, `gain_db`, `place` and `copy_psnr`, the bounds' PSNR as `upper_psnr` and `lower_psnr`, the parts of
    PSNR as `held_out_psnr` and `input_psnr`: {"mean", "clips"}, or why none has it. `clips` counts those with a
    score, `left_out` the others by the reason.
    """
    rows = list(lines)
    scored = [row for row in rows if KEY not in row]
    reasons = [row[KEY] for row in rows if KEY in row]
    names = dict.fromkeys(
        name for row in scored for name in row if name in MEANT or name.startswith(METRICS)
    )
    found = {name: [from_json(row[name]) for row in scored if name in row] for name in names}
    for name, (part, metric) in PARTS.items():
        values = [from_json(row[part]) for row in scored]
        found[name] = [v if isinstance(v, NotAvailable) else v[metric] for v in values]
    found["held_out_psnr"] = [mean(row["held_out"]["psnr"]) for row in scored]
    summary: dict[str, Any] = {"clips": len(scored)}
    if reasons:
        summary["left_out"] = {why: reasons.count(why) for why in dict.fromkeys(reasons)}
    for name, values in found.items():
        value = mean(values)
        summary[name] = (
            to_json(value)
            if isinstance(value, NotAvailable)
            else {"mean": to_json(value), "clips": num_available(values)}
        )
    return summary


def remarks(score: Consistency) -> list[str]:
    """What a reader of the score must know: what makes it easy to have, or keeps it from telling anything."""
    said = []
    held_out = score.generated.held_out_psnr
    if score.copy_psnr > held_out - HARDLY_ABOVE_COPY_DB:
        said.append(
            f"a copy of the nearest view scores {score.copy_psnr:.1f} dB and the scene {held_out:.1f} dB: the views"
            " differ too little, or agree too little, for this score to speak of 3D"
        )
    if not isinstance(score.gain_db, NotAvailable) and score.gain_db < HARDLY_ABOVE_SHUFFLED_DB:
        said.append(
            f"the poses explain next to nothing: shuffled, the views score only {score.gain_db:.1f} dB less. The views"
            " do not show one scene, hardly move, or the cameras are not theirs (check axes and order)"
        )
    yardstick = "reference" if "reference" in score.sharpness else "input"
    share = _share(score.sharpness, yardstick)
    if share is not None and share < BLURRED:
        said.append(
            f"the views' sharpness is {share:.0%} of the {yardstick} view's: blur makes views easy to predict, so"
            " compare this score with those of equally sharp views only"
        )
    share = _share(score.motion, "reference")
    if share is not None and share < STILL:
        said.append(
            f"the views move {share:.0%} as much as the reference's: a video that stands still is easy to predict"
        )
    if score.travel < 1e-6:
        said.append("the cameras do not leave their place: no depth is at stake")
    if isinstance(score.generated.input, NotAvailable) and score.generated.input_weight:
        said.append(f"the input view is not judged: {score.generated.input.why}")
    return said


def _share(values: Mapping[str, float], yardstick: str) -> float | None:
    """The generated views' value as a share of the yardstick's; None where that is not known or nothing."""
    return values["generated"] / values[yardstick] if values.get(yardstick) else None


def _bound_line(bound: ScenePrediction | NotAvailable) -> Any:
    """The bound's scores, as far as they are numbers; the views that they are of are the score's."""
    return to_json(bound if isinstance(bound, NotAvailable) else _numbers(bound.scores()))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that have a value; why others have none is said once, beside the score."""
    return {name: value for name, value in metrics.items() if not isinstance(value, NotAvailable)}


def _means(rows: Sequence[dict[str, Measured]]) -> dict[str, Measured]:
    return {name: mean([row[name] for row in rows]) for name in rows[0]}


def _number(value: Measured) -> float:
    assert isinstance(value, float)
    return value

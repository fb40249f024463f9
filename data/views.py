"""Which frames of a clip go into a model, and which views it is then judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Config
from data.clips import Clip
from data.shard_samples import ShardClip

FRAME_GROUP = 8
"""The video autoencoder round-trips 8k+1 frames and no other number."""


def check_frame_count(num_frames: int, name: str) -> int:
    """`num_frames`, where it is 8k+1 with k >= 1; otherwise a UserError with the nearest such numbers."""
    if num_frames <= FRAME_GROUP or num_frames % FRAME_GROUP != 1:
        below = max(1, (num_frames - 1) // FRAME_GROUP) * FRAME_GROUP + 1
        raise UserError(
            f"{name} is {num_frames}; expected 8k+1 frames, since the video autoencoder round-trips no"
            f" other number: take {below} or {below + FRAME_GROUP}"
        )
    return num_frames


class ViewSamplerConfig(Config):
    """How input and supervision views are chosen from a clip's frames.

    Wonderland supervises 24 views inside the clip's span and 24 outside; here "seen" views are input
    frames and "unseen" are any others, as the scores report them. `reach` and reversal are ours.
    """

    num_input: int = Field(17, description="frames that go in: 8k+1")
    strides: tuple[int, ...] = Field(
        (1,), description="path frames from one input frame to the next"
    )
    num_seen: int = Field(4, ge=0, description="input frames that supervise")
    num_unseen: int = Field(4, ge=0, description="other views that supervise")
    reach: float = Field(
        0.5, ge=0, description="unseen path frames lie at most so many window lengths outside it"
    )
    reverse_probability: float = Field(
        0.0, ge=0, le=1, description="share of windows run backwards"
    )

    @model_validator(mode="after")
    def _counts_fit(self) -> ViewSamplerConfig:
        try:
            check_frame_count(self.num_input, "num_input")
        except UserError as error:
            raise ValueError(str(error)) from error
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"strides are {self.strides}; expected one or more, each at least 1")
        if self.num_seen > self.num_input:
            raise ValueError(
                f"num_seen is {self.num_seen}, more than the {self.num_input} input frames"
            )
        return self


@dataclass(frozen=True)
class ViewSelection:
    """Frame numbers of a clip.

    input: what goes in, in this order; the first of them is the origin of the cameras.
    seen: supervision views among the input. unseen: supervision views that are not.
    """

    input: list[int]
    seen: list[int]
    unseen: list[int]

    @property
    def targets(self) -> list[int]:
        """All supervision views: the seen, then the unseen."""
        return self.seen + self.unseen


class ViewSampler:
    """Chooses views by a config: at random for training, evenly for evaluation.

    The input is a window of path frames at one of the strides, forwards or backwards. Unseen views
    come from the extra views (those after the path) and from path frames between the input frames or a
    little before and after them. Where there are too few, they are repeated.
    """

    def __init__(self, config: ViewSamplerConfig) -> None:
        self.config = config

    def sample(
        self, num_frames: int, num_path_frames: int, generator: torch.Generator
    ) -> ViewSelection:
        """A random selection from a clip of `num_frames`, the first `num_path_frames` along its path.

        Raises UserError where the path is too short, or where there are no views to be the unseen.
        """
        config = self.config
        strides = self._possible_strides(num_path_frames)
        stride = strides[_random_below(len(strides), generator)]
        span = (config.num_input - 1) * stride
        start = _random_below(num_path_frames - span, generator)
        window = list(range(start, start + span + 1, stride))
        if torch.rand((), generator=generator) < config.reverse_probability:
            window.reverse()
        return self.around(window, num_frames, num_path_frames, generator)

    def around(
        self,
        window: list[int],
        num_frames: int,
        num_path_frames: int,
        generator: torch.Generator,
    ) -> ViewSelection:
        """A selection with this window of path frames as its input; raises UserError as `sample` does."""
        others = self._others(sorted(window), num_frames, num_path_frames)
        return ViewSelection(
            input=window,
            seen=_draw(window, self.config.num_seen, generator),
            unseen=_draw(others, self.config.num_unseen, generator),
        )

    def evaluation(self, num_frames: int, num_path_frames: int) -> ViewSelection:
        """The one selection by which a clip is scored: smallest stride, middle window, even spacing.

        Unlike in training no view comes twice, so there may be fewer unseen views than configured.
        """
        config = self.config
        stride = self._possible_strides(num_path_frames)[0]
        span = (config.num_input - 1) * stride
        start = (num_path_frames - 1 - span) // 2
        window = list(range(start, start + span + 1, stride))
        others = self._others(window, num_frames, num_path_frames)
        return ViewSelection(
            input=window,
            seen=_spread(window, config.num_seen),
            unseen=_spread(others, config.num_unseen),
        )

    def _possible_strides(self, num_path_frames: int) -> list[int]:
        gaps = self.config.num_input - 1
        possible = sorted(s for s in self.config.strides if gaps * s < num_path_frames)
        if not possible:
            shortest = min(self.config.strides)
            raise UserError(
                f"the clip has {num_path_frames} path frames; {self.config.num_input} input frames at"
                f" stride {shortest} need {gaps * shortest + 1}: choose a smaller num_input or stride,"
                " or prepare longer clips"
            )
        return possible

    def _others(self, window: list[int], num_frames: int, num_path_frames: int) -> list[int]:
        margin = int(self.config.reach * (window[-1] - window[0]))
        first, end = max(0, window[0] - margin), min(num_path_frames, window[-1] + margin + 1)
        given = set(window)
        others = [
            v for v in [*range(first, end), *range(num_path_frames, num_frames)] if v not in given
        ]
        if not others and self.config.num_unseen:
            raise UserError(
                f"a clip of {num_frames} frames has no view besides its {len(window)} input frames, so"
                f" none can be the {self.config.num_unseen} unseen ones: set num_unseen to 0 or prepare"
                " clips with extra views"
            )
        return others


def load_selection(
    clip: ShardClip, selection: ViewSelection, *, depth: bool = True
) -> tuple[Clip, Clip]:
    """The input frames, and the supervision views in the order of `targets`, in the same axes and units.

    Cameras of both are relative to the first input frame. Where that isn't the stored clip's first frame
    and depth is stored, the unit of length becomes its median depth; without depth it stays. Depth comes
    along where it is stored and `depth` is true. Each frame is decoded once.
    """
    views = list(dict.fromkeys(selection.input + selection.targets))
    moved = views[0] != 0
    loaded = clip.load(views, depth=depth or moved)
    if moved:
        loaded = loaded.normalised(None if loaded.depth is not None else 1.0)
    if not depth:
        loaded = replace(loaded, depth=None)
    place = {view: number for number, view in enumerate(views)}
    inputs = loaded.select([place[view] for view in selection.input])
    if not selection.targets:
        return inputs, inputs
    return inputs, loaded.select([place[view] for view in selection.targets])


def _random_below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _draw(views: list[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of `views` in random order, none more than once oftener than another."""
    drawn: list[int] = []
    while len(drawn) < count:
        order = torch.randperm(len(views), generator=generator).tolist()
        drawn += [views[number] for number in order[: count - len(drawn)]]
    return drawn


def _spread(views: list[int], count: int) -> list[int]:
    """Up to `count` of `views`, evenly spaced, in their order."""
    count = min(count, len(views))
    if count == 1:
        return [views[len(views) // 2]]
    return [views[round(i * (len(views) - 1) / (count - 1))] for i in range(count)]

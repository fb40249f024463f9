"""Everything that is measured on one clip: its JSON line, and what is needed to show it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.frame_matches import FrameMatches, match_frames
from eval.cameras.camera_error import CameraError, camera_error
from eval.cameras.convention import check_convention
from eval.cameras.photometric import PhotometricCameraError, photometric_camera_error
from eval.cameras.tsed import tsed
from eval.clips.frames import ScoredFrames
from eval.clips.groups import (
    GROUPS,
    NO_CAMERAS,
    NO_REFERENCE,
    ON_CAMERA_FRAMES,
    WITH_CAMERAS,
    WITH_MATCHES,
    ClipMeasuresConfig,
)
from eval.consistency.measure import ConsistencyResult, measure_consistency
from eval.images.frame_checks import check_frames, check_pair
from eval.images.image_scores import ImageMetrics, ImageScoreConfig
from eval.scores.measured import NotAvailable, to_json
from eval.scores.protocols import FrameProtocol, find_protocol
from models.stopwatch import Stopwatch

Tell = Callable[[str], None]
"""Gets a few words on what is being done."""


@dataclass(frozen=True)
class MeasuredClip:
    """One clip's numbers, and what they are of.

    groups: a group's line by its name, as JSON. notes: what a reader must know. camera, photometric, consistency:
    the results behind the lines, None where there are none.
    """

    frames: ScoredFrames
    groups: dict[str, Any]
    notes: list[str]
    camera: CameraError | None = None
    photometric: PhotometricCameraError | None = None
    consistency: ConsistencyResult | None = None

    def line(self) -> dict[str, Any]:
        """Plain JSON."""
        frames = self.frames.frames
        return {
            "source": self.frames.source,
            "frames": len(frames),
            "size": list(frames.shape[-2:]),
            "notes": self.notes,
            **self.groups,
        }


@dataclass(frozen=True)
class _Path:
    """The frames that the protocol looks at for camera error, and who is told of the progress."""

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras
    watch: Stopwatch
    tell: Tell


@dataclass
class ClipMeasures:
    """Measures clips one after another, the networks loaded once.

    Raises UserError where a file of weights that the configuration names is missing or wrong.
    """

    config: ClipMeasuresConfig
    images: ImageMetrics = field(init=False)
    scene_images: ImageMetrics = field(init=False)

    def __post_init__(self) -> None:
        chosen = self.config.metrics
        none = ImageScoreConfig(lpips=())
        self.protocol = find_protocol(self.config.protocol)
        images, scene = self.config.images, self.config.consistency.images
        # Whoever names the weights once means them everywhere.
        paths = {
            name: getattr(scene, name) or getattr(images, name)
            for name in ("lpips_alex", "lpips_vgg")
        }
        self.images = ImageMetrics(images if "images" in chosen else none, "images.")
        self.scene_images = ImageMetrics(
            scene.model_copy(update=paths) if "consistency" in chosen else none, "images."
        )

    @property
    def identity(self) -> dict[str, str]:
        """The weights that the numbers depend on."""
        scene = {f"consistency_{name}": label for name, label in self.scene_images.identity.items()}
        return {**self.images.identity, **scene}

    def measure(self, frames: ScoredFrames, watch: Stopwatch, tell: Tell) -> MeasuredClip:
        """All chosen groups of a clip; the seconds of each are added to `watch`.

        Raises UserError, which names the clip, for frames or cameras that nothing can be measured on. What only one
        group can't do is not available in that group, with the reason.
        """
        self._check(frames)
        measured = MeasuredClip(frames, {}, list(frames.notes))
        if "images" in self.config.metrics:
            tell(f"{frames.source}: images")
            with watch("images"):
                measured.groups["images"] = self._images(frames)
        with_cameras = [name for name in WITH_CAMERAS if name in self.config.metrics]
        if frames.cameras is None:
            measured.groups.update(dict.fromkeys(with_cameras, to_json(NO_CAMERAS)))
        elif with_cameras:
            measured = self._with_cameras(
                measured, frames.cameras, watch, lambda words: tell(f"{frames.source}: {words}")
            )
        ordered: dict[str, Any] = {
            name: measured.groups[name] for name in GROUPS if name in measured.groups
        }
        return replace(measured, groups=ordered)

    def _check(self, item: ScoredFrames) -> None:
        """What makes the whole clip useless, before anything is measured."""
        check_frames(item.frames, item.source)
        if missing := self._missing_inputs(item):
            raise UserError(
                f"{item.source}: there is nothing to hold the frames against; give {' or '.join(missing)}"
            )
        count = len(item.frames)
        if item.reference is not None and {"images", "consistency"} & set(self.config.metrics):
            views = None
            if "images" in self.config.metrics:
                views = self.protocol.similarity_views(count, item.source)
            check_pair(item.frames, item.reference, item.source, views)
        if set(ON_CAMERA_FRAMES) & set(self.config.metrics):
            self.protocol.camera_views(count, item.source)
        if item.cameras is not None:
            item.cameras.validate(item.source)

    def _missing_inputs(self, item: ScoredFrames) -> list[str]:
        """What to give, where no group has what it needs."""
        given: dict[str, bool] = {}
        if set(WITH_CAMERAS) & set(self.config.metrics):
            given["the cameras that were asked for with --cameras"] = item.cameras is not None
        if "images" in self.config.metrics:
            given["real frames of the same views with --reference"] = item.reference is not None
        return [] if any(given.values()) else list(given)

    def _images(self, item: ScoredFrames) -> dict[str, Any]:
        if item.reference is None:
            return _line(NO_REFERENCE)
        return self.images.score(item.frames, item.reference, item.source, self.protocol).line()

    def _with_cameras(
        self, measured: MeasuredClip, cameras: Cameras, watch: Stopwatch, tell: Tell
    ) -> MeasuredClip:
        item, config = measured.frames, self.config
        on_path = bool(set(ON_CAMERA_FRAMES) & set(config.metrics))
        protocol = self.protocol if on_path else FrameProtocol()
        views = list(protocol.camera_views(len(item.frames), item.source))
        path = _Path(item.frames[views], cameras.select(views), watch, tell)
        if set(WITH_MATCHES) & set(config.metrics) or config.check_cameras != "no":
            tell("matching features")
            measured = self._with_matches(measured, path)
        if "photometric" in config.metrics:
            tell("cameras from pixels")
            with watch("photometric"):
                found = photometric_camera_error(
                    path.frames, path.cameras, config.photometric, placed=measured.camera
                )
            measured.groups["photometric"] = found.line()
            measured = replace(measured, photometric=found)
        if "consistency" in config.metrics:
            with watch("consistency"):
                result = self._consistency(item, cameras, tell)
            if isinstance(result, NotAvailable):
                measured.groups["consistency"] = to_json(result)
            else:
                measured.groups["consistency"] = result.score.line()
                measured = replace(measured, consistency=result)
        return measured

    def _with_matches(self, measured: MeasuredClip, path: _Path) -> MeasuredClip:
        """What is found from features of the protocol's frames, which are sought once."""
        config, frames, cameras = self.config, path.frames, path.cameras
        with ExitStack() as stack:
            with path.watch("features"):
                matches = stack.enter_context(
                    match_frames(frames, cameras, config.camera.matching, seed=config.camera.seed)
                )
            self._check_convention(measured, path, matches)
            if "tsed" in config.metrics:
                shared = (
                    config.tsed.matching == config.camera.matching
                    and config.tsed.seed == config.camera.seed
                )
                with path.watch("tsed"):
                    pairs = tsed(frames, cameras, config.tsed, matches=matches if shared else None)
                measured.groups["tsed"] = pairs.line()
            if "camera" in config.metrics:
                path.tell("structure from motion")
                with path.watch("structure from motion"):
                    found = camera_error(frames, cameras, config.camera, matches=matches)
                measured.groups["camera"] = found.line()
                measured = replace(measured, camera=found)
        return measured

    def _check_convention(self, measured: MeasuredClip, path: _Path, matches: FrameMatches) -> None:
        if self.config.check_cameras == "no":
            return
        sentence = check_convention(path.frames, path.cameras, matches=matches)
        if sentence is None:
            return
        if self.config.check_cameras == "refuse":
            raise UserError(
                f"{measured.frames.source}: {sentence}; or score them as they are with check_cameras=warn"
            )
        measured.notes.append(sentence)

    def _consistency(
        self, item: ScoredFrames, cameras: Cameras, tell: Tell
    ) -> ConsistencyResult | NotAvailable:
        frames = item.frames
        if item.input is not None:
            frames = torch.cat([item.input[None].to(frames), frames[1:]])
        clip = Clip(frames, cameras, item.source, len(frames))
        reference = None
        if item.reference is not None:
            reference = Clip(item.reference, cameras, f"{item.source}, reference", len(frames))
        try:
            return measure_consistency(
                clip,
                self.config.consistency,
                reference=reference,
                images=self.scene_images,
                tell=tell,
            )
        except UserError as error:
            return NotAvailable(str(error).removeprefix(f"{item.source}: "))


def _line(value: NotAvailable) -> dict[str, Any]:
    found = to_json(value)
    assert isinstance(found, dict)
    return found

"""The camera error tried on clips whose cameras are known and were made wrong by known amounts.

An item is a clip: its cameras are found once, and held against the commanded cameras of each case, as they are and
perturbed. One case is one line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field

from configs.errors import UserError
from data.cameras import Cameras
from data.clips import Clip
from data.importers.frame_matches import FrameMatches, match_frames
from eval.cameras.camera_error import (
    CameraError,
    CameraErrorConfig,
    camera_error,
    placement_error,
)
from eval.cameras.convention import OTHER_AXES, check_convention
from eval.cameras.path_error import PathError, error_line, path_error
from eval.cameras.perturbed import KINDS, STRENGTHS, Kind, perturbed
from eval.cameras.photometric import (
    PhotometricCameraError,
    PhotometricConfig,
    alignment_error,
    photometric_camera_error,
)
from eval.cameras.tsed import TsedConfig, tsed
from eval.scores.baselines import autoencoder_round_trip
from eval.scores.measured import NotAvailable
from eval.scores.score_run import FORMAT, Scored, Told, settings_sha256
from eval.scores.scored_clips import ProceduralClips, read_index
from eval.trials.captures import find_captures, read_capture_views, size_with_long_side
from eval.trials.claims import print_claims
from eval.trials.page import write_page
from eval.trials.trial import TrialConfig
from models.autoencoders.files import load_autoencoder
from models.bundled_weights import TINY_AUTOENCODER
from models.pretrained import weights_digest
from train.randomness import derive_seed

Group = Literal["capture", "large", "small", "coded"]
"""Real photographs; procedural frames of a size at which features work; small ones; and those after a codec."""
WITH_PIXELS = ("small", "coded")
"""Groups whose cameras are found from pixels, too."""
LINE_FORMAT = "2"
RIGHT: Final = "right"
"""The kind of the case whose commanded cameras are the true ones."""


class CameraTrialConfig(TrialConfig):
    """What the validation of the camera error runs over."""

    autoencoder: Path | None = Field(
        TINY_AUTOENCODER,
        description="weights folder; small frames are tried after it, too, which blurs them as generated ones are",
    )
    num_large: int = Field(
        3, ge=0, description="scenes, from the first, that are tried larger, too"
    )
    large_size: tuple[int, int] = Field((128, 192), description="height and width of their frames")
    capture_long_side: int = Field(1000, gt=0, description="of a capture's frames [px], at most")
    capture_views: int = Field(28, ge=5, description="of each capture, the first along its path")
    camera: CameraErrorConfig = CameraErrorConfig()
    tsed: TsedConfig = TsedConfig()
    photometric: PhotometricConfig = PhotometricConfig()


@dataclass(frozen=True)
class Item:
    """One clip at one size. number: of the scene or of the capture."""

    group: Group
    number: int
    name: str


@dataclass(frozen=True)
class Case:
    """What the commanded cameras are. level: 0 as they are, 1 to 4 as in `eval.cameras.perturbed`."""

    kind: Kind | Literal["right"]
    level: int


CASES = (Case(RIGHT, 0), *(Case(kind, 1 + n) for kind in KINDS for n in range(len(STRENGTHS))))


class CameraTrial:
    """Implements `eval.trials.trial.Trial`; an item is a clip, with a line a case."""

    noun = "clip"
    lines_per_item = len(CASES)
    batch_size = 1

    def __init__(self, config: CameraTrialConfig) -> None:
        self.config = config
        self.index = read_index(config.data)
        self.captures = find_captures(config.captures)
        seeds = self.index.seeds[: config.num_scenes]
        scenes = [(n, f"scene {seed}") for n, seed in enumerate(seeds)]
        self.items = [
            *(Item("capture", n, path.name) for n, path in enumerate(self.captures.paths)),
            *(Item("large", n, f"{name}, large") for n, name in scenes[: config.num_large]),
            *(Item("small", n, name) for n, name in scenes),
        ]
        codec, self.autoencoder = "none", None
        if (folder := config.autoencoder) is not None:
            self.autoencoder, codec = load_autoencoder(folder), weights_digest(folder)
            self.items += [Item("coded", n, f"{name}, coded") for n, name in scenes]
        self.num_items = len(self.items)
        self.identity = {
            FORMAT: LINE_FORMAT,
            "scenes": ProceduralClips(self.index).fingerprint,
            "captures": self.captures.sha256,
            "autoencoder": codec,
            "cases": settings_sha256([repr(item) for item in self.items], repr(STRENGTHS)),
            "settings": settings_sha256(
                config.camera,
                config.tsed,
                config.photometric,
                config.seed,
                [config.large_size, config.capture_long_side, config.capture_views],
            ),
        }

    def measure(self, items: range, pictures: Path, tell: Told) -> list[Scored]:
        return [self._measure(number, self.items[number], tell) for number in items]

    def headline(self, lines: Sequence[dict[str, Any]]) -> str:
        found = lines[0].get("camera")
        return f"{lines[0]['source']}: R_err {found['r_err_deg']} deg" if found else "failed"

    def summarise(
        self, lines: Sequence[dict[str, Any]], seconds: dict[str, float]
    ) -> dict[str, Any]:
        from eval.cameras.trial_summary import summarise_trial

        if all("error" in line for line in lines):
            raise UserError("no clip could be scored; the messages above say why")
        return {**summarise_trial(lines), "captures_left_out": self.captures.left_out}

    def write_report(
        self, folder: Path, summary: dict[str, Any], lines: Sequence[dict[str, Any]]
    ) -> None:
        from eval.cameras.trial_report import trial_markdown

        write_page(folder, self.config.report, trial_markdown(summary), summary)

    def print_scores(self, summary: dict[str, Any]) -> None:
        print_claims(summary["claims"])

    def _measure(self, number: int, item: Item, tell: Told) -> Scored:
        head = {"clip": number, "source": item.name, "group": item.group}
        started = time.process_time()
        try:
            clip = self._load(item)
        except UserError as error:
            return Scored([{**head, "error": str(error)} for _ in CASES], {})
        config, cameras = self.config, clip.cameras.to(torch.float64)
        head |= {
            "views": clip.num_frames,
            "size": [cameras.height, cameras.width],
            "focal_px": round(float(cameras.intrinsics[:, 0, 0].median()), 4),
        }
        tell(f"{item.name}: matching features")
        with match_frames(
            clip.frames, cameras, config.camera.matching, seed=config.camera.seed
        ) as matches:
            tell(f"{item.name}: structure from motion")
            placed = camera_error(clip.frames, cameras, config.camera, matches=matches)
            pixels = None
            if item.group in WITH_PIXELS:
                tell(f"{item.name}: cameras from pixels")
                pixels = photometric_camera_error(
                    clip.frames, cameras, config.photometric, placed=placed
                )
            lines = []
            for case in CASES:
                tell(f"{item.name}: {case.kind} {case.level}")
                commanded = _commanded(cameras, case, derive_seed(item.name, config.seed))
                row = {**head, "kind": case.kind, "level": case.level}
                row |= self._against(clip, commanded, matches, placed, pixels)
                lines.append(row)
            lines[0]["conventions"] = _conventions_named(clip, matches)
            lines[0]["found_px"] = self._distance_of_found(clip, matches, placed)
        return Scored(lines, {"cpu": time.process_time() - started})

    def _against(
        self,
        clip: Clip,
        commanded: Cameras,
        matches: FrameMatches,
        placed: CameraError,
        pixels: PhotometricCameraError | None,
    ) -> dict[str, Any]:
        """What is measured against these commanded cameras, and what is to be found."""
        config = self.config
        error: PathError | NotAvailable = placed.error
        if placed.placement is not None:
            error = placement_error(placed.placement, commanded, config.camera)
        found = {
            "camera": {
                **_means(error),
                "known": _known(clip.cameras, commanded, placed.placed),
                "registration_rate": round(placed.registration_rate, 4),
                "points": placed.line()["points"],
                "reprojection_error_px": placed.line()["reprojection_error_px"],
            },
            "tsed": _some(
                tsed(clip.frames, commanded, config.tsed, matches=matches).line(),
                ("percent", "typical_px", "consistent", "pairs", "unmatched"),
            ),
            "alarm": check_convention(clip.frames, commanded, matches=matches),
        }
        if pixels is not None and pixels.alignment is not None:
            line = alignment_error(
                pixels.alignment, pixels.views, commanded, config.photometric
            ).line()
            names = ("r_err_deg", "t_err", "r_floor_deg", "t_floor", "explained", "start")
            found["photometric"] = {
                **_some(line, (*names, "r_err_deg_deviation", "t_err_deviation")),
                "known": _known(clip.cameras, commanded, pixels.views),
            }
        return found

    def _distance_of_found(self, clip: Clip, matches: FrameMatches, placed: CameraError) -> Any:
        """The typical epipolar distance [px] of the cameras found, where all frames were placed."""
        if placed.found is None or placed.registration_rate < 1:
            return None
        return tsed(clip.frames, placed.found, self.config.tsed, matches=matches).line()[
            "typical_px"
        ]

    def _load(self, item: Item) -> Clip:
        config = self.config
        if item.group == "capture":
            path = self.captures.paths[item.number]
            size = size_with_long_side(path, config.capture_long_side)
            return read_capture_views(path, size, config.capture_views)
        index = self.index
        if item.group == "large":
            height, width = config.large_size
            scene = index.scene.model_copy(update={"height": height, "width": width})
            index = index.model_copy(update={"scene": scene})
        clip, _ = ProceduralClips(index).load(item.number, config.threads)
        clip = clip.select(range(clip.num_path_frames))
        if item.group == "coded":
            assert self.autoencoder is not None
            clip = replace(clip, frames=autoencoder_round_trip(self.autoencoder, clip.frames))
        return clip


def _commanded(cameras: Cameras, case: Case, seed: int) -> Cameras:
    return cameras if case.kind == RIGHT else perturbed(cameras, case.kind, case.level, seed)


def _known(right: Cameras, commanded: Cameras, views: Sequence[int]) -> dict[str, Any] | None:
    """The error that the cameras which took these views have against the commanded ones."""
    if len(views) < 2:
        return None
    return _means(path_error(right.select(list(views)), commanded, views))


def _means(error: PathError | NotAvailable) -> dict[str, Any]:
    return _some(error_line(error), ("r_err_deg", "t_err"))


def _some(line: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: line[name] for name in names}


def _conventions_named(clip: Clip, matches: FrameMatches) -> dict[str, bool]:
    """Of each other convention that the right cameras could be in: whether it is named."""
    cameras = clip.cameras.to(torch.float64)
    wrong = {"camera-to-world matrices, read as": cameras.camera_to_world}
    for axes in OTHER_AXES:
        of_camera, of_world = (
            torch.diag(torch.tensor([*signs, 1.0], dtype=torch.float64))
            for signs in (axes.camera, axes.world)
        )
        wrong[f"cameras in {axes.what}"] = of_camera @ cameras.world_to_camera @ of_world
    found = {}
    for what, matrices in wrong.items():
        given = Cameras(matrices, cameras.intrinsics, cameras.height, cameras.width)
        sentence = check_convention(clip.frames, given, matches=matches)
        found[what] = sentence is not None and what in sentence
    return found

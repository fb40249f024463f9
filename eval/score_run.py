"""Runs a model over a set of clips, one JSON line a clip, and goes on where it stopped.

A score folder holds `config.yaml`, `identity.json` (hashes of weights and clips), `clips.jsonl` (the scores,
the same bytes whenever the same thing is scored), `seconds.jsonl`, `pictures/`, `summary.json` and
`report.html`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from configs.errors import UserError
from configs.loader import Config, dump_config
from data.durable_files import disk_errors_explained, write_durably
from eval.clip_pictures import compare_grid
from eval.pictures import png_bytes
from eval.reconstruction import TINY_AUTOENCODER, TINY_LALRM, Models, load_models
from eval.scored_clips import ScoredClips, open_scored_clips
from eval.scoring import BaselineConfig, fit_time_ratio, score_clip, summarise
from train.randomness import derive_seed
from train.run_folder import describe_environment

LINE_BYTES = 20_000
"""A generous guess of a clip's line, for the message on a full disk."""


class ScoreConfig(Config):
    """A recipe of `score`."""

    autoencoder: Path = Field(TINY_AUTOENCODER, description="weights folder")
    lalrm: Path = Field(TINY_LALRM, description="weights folder")
    data: Path = Field(description="index of held-out seeds (.json), or a shard folder")
    num_clips: int | None = Field(None, gt=0, description="only so many, from the first")
    baselines: BaselineConfig = BaselineConfig()
    seed: int = Field(0, ge=0, description="of the baselines' random starts")
    threads: int = Field(1, gt=0, description="of torch and of the renderer")
    out: Path = Field(description="folder for the results")
    restart: bool = Field(False, description="throw away what `out` holds of another score")


class ScoreRun:
    """One score folder, new or continued."""

    def __init__(self, config: ScoreConfig) -> None:
        self.config = config
        self.clips: ScoredClips = open_scored_clips(config.data)
        self.num_clips = min(config.num_clips or len(self.clips), len(self.clips))
        self.models: Models = load_models(config.autoencoder, config.lalrm)
        self.folder = config.out
        self.lines_path = self.folder / "clips.jsonl"
        self.seconds_path = self.folder / "seconds.jsonl"
        self.identity = self._identity()
        self._open_folder()

    @property
    def num_done(self) -> int:
        """Clips whose lines are there already."""
        return min(len(self.lines()), self.num_clips)

    def run(self, on_clip: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Scores the clips that are still missing, in order; `on_clip` gets each new line."""
        torch.set_num_threads(self.config.threads)
        for number in range(self.num_done, self.num_clips):
            line, seconds = self._score(number)
            with disk_errors_explained(self.lines_path, LINE_BYTES):
                _append(self.seconds_path, {"clip": number, "seconds": seconds})
                _append(self.lines_path, line)
            if on_clip is not None:
                on_clip(line)

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines written so far, in order."""
        return _read_lines(self.lines_path)[: self.num_clips]

    def picture(self, number: int) -> Path:
        return self.folder / "pictures" / f"{number:04d}.png"

    def write_summary(self) -> dict[str, Any]:
        """Writes `summary.json` from the lines, and returns it."""
        lines = self.lines()
        timings = {line["clip"]: line["seconds"] for line in _read_lines(self.seconds_path)}
        failed = {line["source"]: line["error"] for line in lines if "error" in line}
        seconds = _mean_seconds([timings[n] for n in range(len(lines)) if n in timings])
        summary = {
            **summarise(lines),
            "failed": failed,
            "seconds_per_clip": seconds,
            "fit_time_ratio": fit_time_ratio(seconds),
            "identity": self.identity,
            "config": self.config.model_dump(mode="json"),
            "environment": describe_environment(),
        }
        write_durably(self.folder / "summary.json", json.dumps(summary, indent=1).encode())
        return summary

    def _score(self, number: int) -> tuple[dict[str, Any], dict[str, float]]:
        """A clip's line and timings. A clip that cannot be read or used gets a line that says why."""
        try:
            clip, num_near = self.clips.load(number, self.config.threads)
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, number))
            result = score_clip(clip, self.models, self.config.baselines, generator, num_near)
        except UserError as error:
            return {
                "clip": number,
                "source": f"{self.config.data}:{number}",
                "error": str(error),
            }, {}
        picture = compare_grid(clip, result).draw(cell_width=192)
        write_durably(self.picture(number), png_bytes(picture))
        return {"clip": number, **result.score.line()}, result.score.seconds

    def _identity(self) -> dict[str, str]:
        return {
            "clips": self.clips.fingerprint,
            "autoencoder": weights_sha256(self.config.autoencoder),
            "lalrm": weights_sha256(self.config.lalrm),
            "settings": hashlib.sha256(
                json.dumps(
                    [self.config.baselines.model_dump(mode="json"), self.config.seed],
                    sort_keys=True,
                ).encode()
            ).hexdigest(),
        }

    def _open_folder(self) -> None:
        """Makes the folder, or checks that what it holds is this score's; drops a torn last line."""
        path = self.folder / "identity.json"
        if self.config.restart:
            for file in (path, self.lines_path, self.seconds_path):
                file.unlink(missing_ok=True)
        if path.is_file():
            found = json.loads(path.read_text())
            if changed := [key for key in self.identity if found.get(key) != self.identity[key]]:
                raise UserError(
                    f"{self.folder} holds the score of something else (other {' and '.join(changed)});"
                    " give another folder with out=..., or throw that score away with restart=true"
                )
        elif _is_taken(self.folder) and not self.config.restart:
            raise UserError(
                f"{self.folder} exists and holds no score; give another folder with out=..., or write"
                " into it with restart=true"
            )
        with disk_errors_explained(self.folder, LINE_BYTES):
            (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(self.identity, indent=1).encode())
        dump_config(self.config, self.folder / "config.yaml")
        for file in (self.lines_path, self.seconds_path):
            _drop_torn_line(file)


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def weights_sha256(folder: Path) -> str:
    """One hash over the configuration and weights in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"}):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _mean_seconds(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: round(sum(values) / len(values), 3)
        for name in names
        if (values := [row[name] for row in rows if name in row])
    }


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); throw the score away with restart=true"
        ) from error


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line without its end, which a kill in the middle of a write leaves."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        write_durably(path, content[: content.rfind(b"\n") + 1])

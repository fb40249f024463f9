"""What LaLRM loses on generated latents, clip by clip and in one table; see `eval.latent_gap`."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from data.cameras import Cameras, stack_cameras
from data.clip_windows import Window
from data.shard_index import ShardIndex, index_file
from data.shards import open_clip
from eval.images import metrics
from eval.reconstruction import render_scene
from models.autoencoders.interface import VideoAutoencoder
from models.autoencoders.latent_shards import LATENTS
from models.lalrm import LaLRM
from models.pretrained import weights_digest
from train.tasks.stored_latents import made_by_video_model

GENERATED, REENCODED = "generated", "re-encoded"
MEASURES = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "lpips": ("LPIPS", 3)}
"""Heading and decimals."""


def check_generated(index: ShardIndex, autoencoder: Path) -> None:
    """Raises UserError where a folder's stored latents are not a video model's, or of another autoencoder."""
    path = index.folder / index_file(LATENTS)
    if not path.is_file() or not made_by_video_model(index):
        raise UserError(
            f"{index.folder}: has no latents that a video model drew; make such clips with"
            " `./launch.sh prepare generated`"
        )
    recipe = index.tensors(LATENTS).content.recipe
    if recipe["autoencoder"] != weights_digest(autoencoder):
        raise UserError(
            f"{path}: its latents are not of the autoencoder {autoencoder}; name theirs with --autoencoder"
        )


@torch.no_grad()
def measure_clip(
    index: ShardIndex,
    number: int,
    autoencoder: VideoAutoencoder,
    models: dict[str, LaLRM],
    device: torch.device,
) -> dict[str, Any]:
    """One clip: how far its latents lie apart, and each LaLRM's scores from either."""
    handle = open_clip(index, number)
    clip = handle.load(depth=False)
    drawn = handle.tensors(LATENTS)[Window(0, 1).key].float()[None].to(device)
    encoded = autoencoder.encode(clip.frames[None].to(device)).float()
    cameras = clip.cameras.to(device)
    return {
        "clip": number,
        "source": clip.source,
        "latent_difference": {
            "first": _relative_difference(drawn[:, :, :1], encoded[:, :, :1]),
            "rest": _relative_difference(drawn[:, :, 1:], encoded[:, :, 1:]),
        },
        "scores": {
            name: {
                GENERATED: _scores(model, drawn, cameras, clip.frames),
                REENCODED: _scores(model, encoded, cameras, clip.frames),
            }
            for name, model in models.items()
        },
    }


def summarise_gap(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips: latents' difference, each LaLRM's scores, and the gap with its standard error.

    A measure that is not available is None.
    """
    models: dict[str, Any] = {}
    for name in lines[0]["scores"]:
        models[name] = {
            kind: {m: _mean([line["scores"][name][kind][m] for line in lines]) for m in MEASURES}
            for kind in (GENERATED, REENCODED)
        }
        models[name]["gap"] = {
            m: _gap([line["scores"][name] for line in lines], m) for m in MEASURES
        }
    return {
        "num_clips": len(lines),
        "latent_difference": {
            part: fmean(line["latent_difference"][part] for line in lines)
            for part in ("first", "rest")
        },
        "lalrm": models,
    }


def gap_markdown(summary: dict[str, Any]) -> str:
    """The table, a row a LaLRM and kind of latents, with its explanation."""
    apart = summary["latent_difference"]
    shown = {
        m: heading
        for m, heading in MEASURES.items()
        if all(found["gap"][m] is not None for found in summary["lalrm"].values())
    }
    header = ["LaLRM", "latents", *(heading for heading, _ in shown.values())]
    lines = [
        f"{summary['num_clips']} generated clips; generated latents differ from re-encoded ones by"
        f" {100 * apart['first']:.1f} % (first latent frame) and {100 * apart['rest']:.1f} % (the rest) of"
        " their size.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    for name, found in summary["lalrm"].items():
        for kind in (GENERATED, REENCODED):
            cells = [f"{found[kind][m]:.{digits}f}" for m, (_, digits) in shown.items()]
            lines.append("| " + " | ".join([name, kind, *cells]) + " |")
        cells = [_gap_cell(found["gap"][m], digits) for m, (_, digits) in shown.items()]
        lines.append("| " + " | ".join([name, "gap", *cells]) + " |")
    missing = [heading for m, (heading, _) in MEASURES.items() if m not in shown]
    if missing:
        lines += ["", f"Not available: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _scores(
    model: LaLRM, latents: Tensor, cameras: Cameras, truth: Tensor
) -> dict[str, float | None]:
    gaussians = model(latents, stack_cameras([cameras])).sample(0)
    frames = render_scene(gaussians, cameras).frames.cpu()
    distance = metrics.lpips(frames, truth)
    return {
        "psnr": float(metrics.psnr(frames, truth).mean()),
        "ssim": float(metrics.ssim(frames, truth).mean()),
        "lpips": None if distance is None else float(distance.mean()),
    }


def _relative_difference(drawn: Tensor, encoded: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the encoded latents."""
    return float((drawn - encoded).square().mean().sqrt() / encoded.square().mean().sqrt())


def _gap(scores: list[dict[str, Any]], measure: str) -> dict[str, float | None] | None:
    pairs = [(row[GENERATED][measure], row[REENCODED][measure]) for row in scores]
    if any(value is None for pair in pairs for value in pair):
        return None
    gaps = [drawn - encoded for drawn, encoded in pairs]
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    return {"mean": fmean(gaps), "standard_error": error}


def _gap_cell(gap: dict[str, float | None], digits: int) -> str:
    error = gap["standard_error"]
    spread = "" if error is None else f" ± {error:.{digits}f}"
    return f"{gap['mean']:+.{digits}f}{spread}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None

"""A texture before and after a prior drew it anew: the numbers, and the part of the page that shows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from data.cameras import Cameras
from data.durable_files import write_durably
from eval.images.metrics import psnr
from eval.pages.clip_pictures import spread
from eval.pages.html_report import Report
from eval.pages.mesh_pictures import draw_pictures
from eval.pages.pictures import draw_grid, png_bytes
from models.meshing.files import TexturedMesh
from models.meshing.texture_denoising import TextureDenoiseConfig

PICTURE = "texture_before_after.png"
FILES = {PICTURE: "the texture before and after the prior"}
NUM_SHOWN = 2
"""Views of each group in the picture."""
HEADING = "The texture, before and after the prior"
JUDGED = (
    "Before, the texture was fitted to the Gaussians' own pictures, so against these it can only lose. Held out are"
    " squares of the image and, where the scene's video lies beside it, its other frames: no fit looked at them, and"
    " the texture that shows them better is kept, unless --keep says otherwise."
)
NOT_JUDGED = (
    "Before, the texture was fitted to the Gaussians' own pictures, so against these it can only lose. Without --image"
    " nothing else tells whether it is better: look at it."
)


@dataclass(frozen=True)
class TextureChange:
    """A texture before and after. held_out: PSNR [dB] of what no fit looked at, of both; None where nothing was."""

    prior: str
    config: TextureDenoiseConfig
    before: TexturedMesh
    after: TexturedMesh
    kept: TexturedMesh
    held_out: tuple[float, float] | None

    @property
    def kept_name(self) -> str:
        return "the prior's texture" if self.kept is self.after else "the texture as it was"

    def verdict(self) -> str:
        """Which texture is kept, and why, in a sentence."""
        if self.held_out is None:
            return f"kept: {self.kept_name}; without --image nothing tells whether it is better"
        before, after = self.held_out
        return f"kept: {self.kept_name}; held out, it went from {before:.2f} to {after:.2f} dB"


@dataclass(frozen=True)
class SeenChange:
    """The same views of the Gaussians and of both textures."""

    scene: Float[Tensor, "v 3 h w"]
    before: Float[Tensor, "v 3 h w"]
    after: Float[Tensor, "v 3 h w"]

    def psnr(self) -> tuple[float, float]:
        """Of both textures against the Gaussians [dB]."""
        first, last = (float(psnr(one, self.scene).mean()) for one in (self.before, self.after))
        return first, last


def see_change(
    change: TextureChange, scenes: Mapping[str, tuple[Cameras, Float[Tensor, "v 3 h w"]]]
) -> dict[str, SeenChange]:
    """Both textures in groups of views, given with the Gaussians' pictures of them."""
    return {
        name: SeenChange(
            frames,
            draw_pictures(change.before, cameras).textured,
            draw_pictures(change.after, cameras).textured,
        )
        for name, (cameras, frames) in scenes.items()
    }


def change_summary(change: TextureChange, seen: Mapping[str, SeenChange]) -> dict[str, Any]:
    """For metrics.json."""
    return {
        "prior": change.prior,
        "kept": change.kept_name,
        "held_out_psnr": change.held_out,
        "psnr_against_scene": {name: list(group.psnr()) for name, group in seen.items()},
        "config": change.config.model_dump(mode="json"),
    }


def add_change(
    report: Report, folder: Path, change: TextureChange, seen: Mapping[str, SeenChange]
) -> None:
    """Writes `FILES` and adds the section to the page."""
    report.section(HEADING, NOT_JUDGED if change.held_out is None else JUDGED)
    verdict = change.verdict()
    report.note(f"Prior: {change.prior}. {verdict[0].upper()}{verdict[1:]}.")
    rows = [
        [f"PSNR against the Gaussians, {name}", *(f"{value:.2f} dB" for value in group.psnr())]
        for name, group in seen.items()
    ]
    if change.held_out is not None:
        rows.append(["PSNR of what is held out", *(f"{value:.2f} dB" for value in change.held_out)])
    report.table(["", "before", "after"], rows)
    last = list(seen.values())[-1]
    middle = len(last.scene) // 2
    report.compare(
        last.before[middle],
        last.after[middle],
        ("before", "after"),
        "Drag to compare: a view that the mesh was not made from.",
    )
    pictures: list[list[Tensor]] = [[], [], []]
    columns = []
    for name, group in seen.items():
        for view in spread(range(len(group.scene)), NUM_SHOWN):
            for row, frames in zip(pictures, (group.scene, group.before, group.after), strict=True):
                row.append(frames[view])
            columns.append(name)
    labels = ["Gaussians", "before", "after"]
    write_durably(folder / PICTURE, png_bytes(draw_grid(pictures, labels, columns)))
    report.image(folder / PICTURE, "The same views of the Gaussians and of both textures.")

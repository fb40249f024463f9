"""The stages of `mesh`, each done once: a run that was stopped goes on after the last that it finished."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.pages.mesh_pictures import draw_clay, draw_pictures
from eval.pages.pictures import draw_grid, png_bytes
from eval.unfinished_folder import UnfinishedFolder
from models.meshing.files import TexturedMesh
from models.meshing.surface import Mesh
from models.meshing.surface_views import SurfaceViews
from models.meshing.unwrap import Unwrapped
from models.stopwatch import Stopwatch

PREVIEW_HEIGHT = 192
SURFACE, TEXTURE, DRAWN = "surface", "texture", "texture by the prior"
"""What the stages are called, and their seconds."""


class MeshStages:
    """Makes what is not there yet, and saves it with a preview as soon as it is.

    A stage is saved whole, the prior's after each of its rounds. Seconds go to the watch, those of earlier runs too.
    """

    def __init__(self, folder: UnfinishedFolder, views: SurfaceViews, watch: Stopwatch) -> None:
        """views: that the mesh is made from; the middle one is the preview's."""
        self.folder, self.watch = folder, watch
        self.view = views.cameras.select(views.cameras.num_views // 2)
        self.pictures = {"Gaussians": views.frames[views.cameras.num_views // 2]}
        self._round_began = time.monotonic()
        self.state = dict(folder.load_state() or {})
        for name, seconds in self.state.items():
            if name.startswith("seconds."):
                stage = name.removeprefix("seconds.")
                watch.seconds[stage] = watch.seconds.get(stage, 0.0) + float(seconds)

    @property
    def done(self) -> list[str]:
        """The stages that were done before, or begun in the prior's case."""
        marks = {SURFACE: "mesh.faces", TEXTURE: "texture", DRAWN: "drawn"}
        return [name for name, mark in marks.items() if mark in self.state]

    def surface(self, make: Callable[[], Mesh]) -> Mesh:
        """The mesh; `make` makes it where it is not there yet."""
        if "mesh.faces" not in self.state:
            with self.watch(SURFACE):
                mesh = make()
            self._show("shape", draw_clay(mesh, mesh.normals(), self.view)[0])
            self._save(SURFACE, _mesh_state("mesh", mesh))
            return mesh
        return _mesh_of(self.state, "mesh")

    def texture(self, make: Callable[[], TexturedMesh]) -> TexturedMesh:
        """The mesh with its texture from the scene; `make` makes it where it is not there yet."""
        if "texture" in self.state:
            arrays = {
                name: self.state[f"unwrapped.{name}"].numpy()
                for name in ("uvs", "source", "normals")
            }
            unwrapped = Unwrapped(_mesh_of(self.state, "unwrapped"), **arrays)
            textured = TexturedMesh(unwrapped, self.state["texture"])
            self._show_textured("texture", textured)
            return textured
        with self.watch(TEXTURE):
            textured = make()
        unwrapped = textured.unwrapped
        state = _mesh_state("unwrapped", unwrapped.mesh)
        for name in ("uvs", "source", "normals"):
            state[f"unwrapped.{name}"] = torch.from_numpy(
                np.ascontiguousarray(getattr(unwrapped, name))
            )
        self._show_textured("texture", textured)
        self._save(TEXTURE, {**state, "texture": textured.texture})
        return textured

    def drawn(self) -> tuple[int, Float[Tensor, "3 size size"]] | None:
        """How many of the prior's rounds are done, and the texture after them; None where none is. The next begins."""
        self._round_began = time.monotonic()
        if "drawn" not in self.state:
            return None
        return int(self.state["drawn.rounds"]), self.state["drawn"]

    def save_drawn(self, rounds: int, textured: TexturedMesh) -> None:
        """Saves the texture after so many of the prior's rounds."""
        now = time.monotonic()
        self.watch.seconds[DRAWN] = self.watch.seconds.get(DRAWN, 0.0) + now - self._round_began
        self._show_textured("by the prior", textured)
        self._save(DRAWN, {"drawn": textured.texture, "drawn.rounds": torch.tensor(rounds)})
        self._round_began = time.monotonic()

    def _show(self, label: str, picture: Float[Tensor, "3 h w"]) -> None:
        self.pictures[label] = picture

    def _show_textured(self, label: str, textured: TexturedMesh) -> None:
        seen = draw_pictures(textured, self.view)
        self._show("shape", seen.clay[0])
        self._show(label, seen.textured[0])

    def _save(self, stage: str, found: dict[str, Tensor]) -> None:
        seconds = torch.tensor(self.watch.seconds.get(stage, 0.0), dtype=torch.float64)
        self.state |= {**found, f"seconds.{stage}": seconds}
        self.folder.open()
        columns, row = list(self.pictures), list(self.pictures.values())
        picture = draw_grid([row], ["now"], columns, PREVIEW_HEIGHT)
        self.folder.save(self.state, png_bytes(picture))


def _mesh_state(name: str, mesh: Mesh) -> dict[str, Tensor]:
    arrays = {"vertices": mesh.vertices, "faces": mesh.faces}
    return {
        f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(array))
        for part, array in arrays.items()
    }


def _mesh_of(state: dict[str, Tensor], name: str) -> Mesh:
    return Mesh(state[f"{name}.vertices"].numpy(), state[f"{name}.faces"].numpy())

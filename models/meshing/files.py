"""Textured meshes as files that others open: GLB, and OBJ with its MTL and PNG.

Both have glTF's axes: x right, y up, and z toward who looks, so that what the scene's first camera saw lies along -z.
Colours already hold the scene's light: the GLB says so (KHR_materials_unlit), and shows as it was rendered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.cameras import Cameras
from data.durable_files import write_durably
from models.meshing.unwrap import Unwrapped

NAME = "mesh"
FILES = {
    f"{NAME}.glb": "the mesh with its texture, for Blender, three.js, game engines",
    f"{NAME}.obj": "the same as OBJ",
    f"{NAME}.mtl": "its material",
    f"{NAME}.png": "its texture",
}
TO_GLTF = np.diag([1.0, -1.0, -1.0])
"""Our axes (x right, y down, z forward) in glTF's."""
UNLIT = "KHR_materials_unlit"


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh laid out on a texture, RGB in [0, 1], row 0 at the top."""

    unwrapped: Unwrapped
    texture: Float[Tensor, "3 size size"]


def write_mesh(textured: TexturedMesh, folder: Path, cameras: Cameras | None = None) -> None:
    """Writes `FILES` into an existing folder; raises UserError where the disk is full or not writable.

    cameras: unbatched; the first becomes a camera of the GLB, so that one can look from where the scene was made.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.exchange.obj import export_obj
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    image = Image.fromarray(_pixels(textured.texture))
    unwrapped = textured.unwrapped

    def with_material(material: Any) -> Any:
        # trimesh counts v from the bottom, as OBJ does, and turns it over for glTF.
        uv = np.stack([unwrapped.uvs[:, 0], 1 - unwrapped.uvs[:, 1]], axis=1)
        return trimesh.Trimesh(
            vertices=unwrapped.mesh.vertices @ TO_GLTF,
            faces=unwrapped.mesh.faces,
            vertex_normals=unwrapped.normals @ TO_GLTF,
            visual=TextureVisuals(uv=uv, material=material),
            process=False,
        )

    pbr = PBRMaterial(
        name=NAME, baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
    )
    glb = export_glb(
        with_material(pbr),
        include_normals=True,
        tree_postprocessor=lambda tree: _finish_tree(tree, cameras),
    )
    simple = SimpleMaterial(
        image=image, name=NAME, diffuse=[255] * 4, ambient=[255] * 4, specular=[0] * 4
    )
    text, others = export_obj(
        with_material(simple),
        include_normals=True,
        return_texture=True,
        mtl_name=f"{NAME}.mtl",
        header=None,
    )
    write_durably(folder / f"{NAME}.glb", glb)
    write_durably(folder / f"{NAME}.obj", text.encode())
    for name, content in others.items():
        write_durably(folder / name, content)


def _finish_tree(tree: dict[str, Any], cameras: Cameras | None) -> None:
    """Marks glTF materials as unlit, and adds a camera."""
    for material in tree["materials"]:
        material["extensions"] = {UNLIT: {}}
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", ()), UNLIT})
    if cameras is None:
        return
    first = cameras.select(0).to("cpu")
    height, width = first.height, first.width
    # Our world and camera axes both turn over: the camera keeps its place among things.
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    to_world = flip @ first.camera_to_world[0].double().numpy() @ flip
    focal_y = float(first.intrinsics[0, 1, 1])
    tree.setdefault("cameras", []).append(
        {
            "type": "perspective",
            "perspective": {
                "yfov": 2 * math.atan(height / (2 * focal_y)),
                "aspectRatio": width / height,
                "znear": 0.01,
            },
        }
    )
    tree["nodes"].append(
        {
            "name": "first view",
            "camera": len(tree["cameras"]) - 1,
            "matrix": to_world.T.reshape(-1).tolist(),
        }
    )
    tree["scenes"][tree.get("scene", 0)]["nodes"].append(len(tree["nodes"]) - 1)


def _pixels(texture: Float[Tensor, "3 size size"]) -> np.ndarray:
    pixels = (texture.detach().clamp(0, 1) * 255).round().movedim(0, -1)
    return pixels.numpy(force=True).astype(np.uint8)

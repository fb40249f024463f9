"""Colours for texels that have none: from the nearest of the surface, then outward over the charts' borders."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from models.meshing.rasteriser import draw_atlas
from models.meshing.unwrap import Unwrapped

MAX_SOURCES = 200_000
"""Coloured texels that others are filled from, at most; more would cost time and show nothing."""
NEIGHBOURS = 4


def fill_texture(
    texture: Float[Tensor, "3 size size"], known: Bool[Tensor, "size size"], unwrapped: Unwrapped
) -> Float[Tensor, "3 size size"]:
    """The texture with a colour everywhere; what is `known` stays.

    Texels of the surface take the mean of the nearest known ones in space; those between charts that of the nearest
    texel of a chart, so that no look-up at a border blends with nothing. Grey where nothing is known.
    """
    if not bool(known.any()):
        return torch.full_like(texture, 0.5)
    size = texture.shape[-1]
    faces = unwrapped.mesh.faces
    atlas = draw_atlas(unwrapped.uvs, faces, size)
    on_mesh = atlas.face[0] >= 0
    points = atlas.interpolate(faces, unwrapped.mesh.vertices)
    colors, has = texture[:, on_mesh].T.numpy().copy(), known.numpy()[on_mesh]
    if has.any() and not has.all():
        sources = np.flatnonzero(has)
        sources = sources[:: max(1, len(sources) // MAX_SOURCES)]
        count = min(NEIGHBOURS, len(sources))
        _, nearest = cKDTree(points[sources]).query(points[~has], k=count)
        colors[~has] = colors[sources][nearest.reshape(-1, count)].mean(axis=1)
    filled = texture.clone()
    filled[:, on_mesh] = torch.from_numpy(colors).T
    return spread_outward(filled, torch.from_numpy(on_mesh) | known)


def spread_outward(
    texture: Float[Tensor, "3 size size"], known: Bool[Tensor, "size size"]
) -> Float[Tensor, "3 size size"]:
    """The texture with every texel that is not known in the colour of the nearest that is."""
    rows, columns = distance_transform_edt(
        ~known.numpy(), return_distances=False, return_indices=True
    )
    return texture[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]

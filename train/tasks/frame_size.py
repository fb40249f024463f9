"""All shards of a run have frames of one size, which the recipe may state."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import UserError
from data.shard_index import ShardIndex


def check_frame_sizes(
    indices: Sequence[ShardIndex], wanted: tuple[int, int] | None
) -> tuple[int, int]:
    """Height and width of the shards' frames; raises UserError where they differ, or are not those `wanted`."""
    size = (indices[0].height, indices[0].width)
    for index in indices:
        if (index.height, index.width) != size:
            raise UserError(
                f"{index.folder}: frames are {index.height}x{index.width}, but those of"
                f" {indices[0].folder} are {size[0]}x{size[1]}; train on one size"
            )
    if wanted is not None and size != wanted:
        raise UserError(
            f"{indices[0].folder}: frames are {size[0]}x{size[1]}, but task.frame_size is"
            f" [{wanted[0]}, {wanted[1]}]; prepare shards of that size, or change it"
        )
    return size

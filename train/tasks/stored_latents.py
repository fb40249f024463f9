"""Whether a shard folder's stored latents are those that a task can use."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from data.shard_index import ShardIndex, index_file
from models.autoencoders.latent_shards import GENERATED, LATENTS, latents_recipe


def has_stored_latents(index: ShardIndex, autoencoder: Path, num_frames: int) -> bool:
    """Whether `index` has latents; raises UserError where they are another autoencoder's or length's."""
    path = index.folder / index_file(LATENTS)
    if not path.is_file():
        return False
    recipe = index.tensors(LATENTS).content.recipe
    wanted = latents_recipe(autoencoder, num_frames)
    for key, value in wanted.items():
        if recipe.get(key) != value:
            raise UserError(
                f"{path}: its {key} is {recipe.get(key)}, but this run's is {value}; make them again"
                " with `./launch.sh prepare latents --overwrite`, or set task.latents=encode"
            )
    return True


def made_by_video_model(index: ShardIndex) -> bool:
    """Whether stored latents are what a video model drew, and not its clips' frames encoded."""
    return bool(index.tensors(LATENTS).content.recipe.get(GENERATED))

"""Text embeddings of shards' captions, computed once (`./launch.sh prepare text`).

They are a set of tensors in the shards' own folder. A clip with a caption has its embedding, "text"; the
embedding of the empty prompt, "empty", lies with the first clip alone, and stands for every clip without one:
stored with each, it would double the size of a set of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UserError
from data.shard_index import ShardIndex, index_file
from data.shard_parts import Existing
from data.shard_samples import ShardClip
from data.shard_writing import tensor_writer
from data.shards import open_clip, read_tensors
from data.work_share import ALL_WORK, WorkShare
from models.pretrained import weights_digest
from models.video.text_encoder import ENCODER_FOLDER, NUM_TOKENS, TextEncoder

TEXT_SET = "text"
"""The usual name of the set of tensors."""
TEXT, EMPTY = "text", "empty"
RECIPE_KEYS = ("encoder", "num_tokens")
"""What has to be equal for embeddings of several folders to be used together."""


@dataclass(frozen=True)
class TextAccount:
    """What `write_text` did: clips with and without a prompt, and prompts that were too long and cut."""

    captions: int = 0
    empty: int = 0
    cut: int = 0


@dataclass(frozen=True)
class StoredText:
    """A set of text embeddings, ready to be read clip by clip.

    name: of the set. empty: the empty prompt's embedding, float32.
    """

    name: str
    empty: Float[Tensor, "n e"]

    def of(self, clip: ShardClip) -> Float[Tensor, "n e"]:
        """The embedding of the clip's caption, or of the empty prompt where it has none; float32."""
        found = clip.tensors(self.name).get(TEXT)
        return self.empty if found is None else found.float()


def write_text(
    index: ShardIndex,
    encoder: TextEncoder,
    weights: Path,
    *,
    num_tokens: int = NUM_TOKENS,
    name: str = TEXT_SET,
    use_captions: bool = True,
    batch_size: int = 8,
    existing: Existing = "refuse",
    share: WorkShare = ALL_WORK,
    progress: Callable[[int], None] = lambda clips: None,
) -> TextAccount:
    """Adds embeddings (float16) to the clips of `index`; the account is of what was left to do.

    weights: the encoder's folder, by whose content the embeddings are recognised later.
    use_captions: False gives every clip the empty prompt.
    existing, share: as for `ShardWriter`; "resume" goes on where an earlier call stopped.
    progress: called with the number of this process's clips that are done, then with those done since.
    """
    recipe = {
        "encoder": weights_digest(weights / ENCODER_FOLDER),
        "num_tokens": num_tokens,
        "captions": use_captions,
    }
    account = TextAccount()
    with tensor_writer(index, name, recipe=recipe, existing=existing, share=share) as writer:
        progress(writer.num_own - writer.num_to_do)
        for numbers in writer.batches(batch_size):
            captions = [
                open_clip(index, number).caption.strip() if use_captions else ""
                for number in numbers
            ]
            found = _embeddings(encoder, [text for text in captions if text], num_tokens)
            for number, caption in zip(numbers, captions, strict=True):
                tensors = {TEXT: next(found)} if caption else {}
                if number == 0:
                    tensors[EMPTY] = next(_embeddings(encoder, [""], num_tokens))
                writer.add_tensors(tensors)
            lengths = [encoder.length(text) for text in captions if text]
            account = TextAccount(
                account.captions + len(lengths),
                account.empty + len(captions) - len(lengths),
                account.cut + sum(length > num_tokens for length in lengths),
            )
            progress(len(numbers))
    return account


def open_text(index: ShardIndex, name: str = TEXT_SET) -> StoredText:
    """The set of embeddings `name` of a shard folder; raises UserError where it is missing or another's."""
    path = index.folder / index_file(name)
    if not path.is_file():
        raise UserError(
            f"{index.folder}: has no stored text embeddings {name!r}; make them with `./launch.sh prepare"
            f" text {index.folder} --encoder FOLDER`, or set task.text=null"
        )
    empty = read_tensors(index, 0, name).get(EMPTY)
    if empty is None:
        raise UserError(
            f"{path}: holds no text embeddings, but something else; task.text names the set that"
            " `./launch.sh prepare text` made"
        )
    return StoredText(name, empty.float())


def open_texts(indices: Sequence[ShardIndex], name: str) -> StoredText:
    """As `open_text` of several folders; raises UserError also where their encoders are not the same."""
    texts = [open_text(index, name) for index in indices]
    recipes = [index.tensors(name).content.recipe for index in indices]
    for index, recipe in zip(indices, recipes, strict=True):
        for key in RECIPE_KEYS:
            if recipe.get(key) != recipes[0].get(key):
                raise UserError(
                    f"{index.folder / index_file(name)}: its {key} is {recipe.get(key)}, but that of"
                    f" {indices[0].folder} is {recipes[0].get(key)}; make them with one encoder and length"
                )
    return texts[0]


def _embeddings(encoder: TextEncoder, prompts: Sequence[str], num_tokens: int) -> Iterator[Tensor]:
    if not prompts:
        return iter(())
    found = encoder.encode(prompts, num_tokens)
    halves = found.to(torch.float16)
    if not torch.isfinite(halves).all():
        raise UserError(
            f"the text encoder gave NaN, infinite or huge embeddings for one of {list(prompts)[:3]} ...;"
            " check its weights"
        )
    return iter(halves)

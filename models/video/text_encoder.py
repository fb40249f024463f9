"""The text encoder of a CogVideoX snapshot: prompts become the embeddings that the video model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from configs.errors import UserError
from models.torchvision_compat import mend_torchvision

TOKENIZER_FOLDER = "tokenizer"
ENCODER_FOLDER = "text_encoder"
NUM_TOKENS = 226
"""CogVideoX's length of a prompt."""
DOWNLOAD = (
    "hf download THUDM/CogVideoX-5b-I2V --include 'tokenizer/*' 'text_encoder/*' --local-dir FOLDER"
)


class TextEncoder:
    """Embeds prompts as diffusers' CogVideoX pipelines do: padded to one length, without a mask."""

    def __init__(self, tokenizer: Any, network: Any) -> None:
        """tokenizer, network: a T5 tokenizer and `T5EncoderModel`, as `load_text_encoder` gives them."""
        self.tokenizer, self.network = tokenizer, network.eval()

    @property
    def width(self) -> int:
        return self.network.config.d_model

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], num_tokens: int) -> Float[Tensor, "b n e"]:
        """Embeddings, float32 on the CPU; what is longer than `num_tokens` is cut off."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=num_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return self.network(tokens.input_ids.to(self.network.device))[0].float().cpu()

    def length(self, prompt: str) -> int:
        """How many tokens the prompt has, its end mark included."""
        return len(self.tokenizer(prompt).input_ids)


def load_text_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Tokenizer and `T5EncoderModel` (in `dtype`, on the CPU) of a snapshot's folder.

    Raises UserError where one of its two folders is missing, incomplete or of another kind.
    """
    for name in (TOKENIZER_FOLDER, ENCODER_FOLDER):
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder}: is no text encoder, since it has no {name}/; expected {TOKENIZER_FOLDER}/ and"
                f" {ENCODER_FOLDER}/ as in a CogVideoX snapshot, which this brings: {DOWNLOAD}"
            )
    mend_torchvision()
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER)
        network, report = T5EncoderModel.from_pretrained(
            folder / ENCODER_FOLDER, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{folder} is not a loadable text encoder, with {TOKENIZER_FOLDER}/ and {ENCODER_FOLDER}/:"
            f" {reason}"
        ) from error
    # Without this, weights that a file lacks would silently be random numbers.
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{folder / ENCODER_FOLDER}: {len(missing)} weights are missing, the first is {missing[0]!r};"
            f" bring them again: {DOWNLOAD}"
        )
    return tokenizer, network

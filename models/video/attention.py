"""Attention of the video transformer as CPUs run it fastest; elsewhere diffusers' own.

Legend: b batch, s tokens (text, then visual), n text tokens, m heads, d head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.torchvision_compat import mend_torchvision

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

MOST_TOKENS = 1024
"""Up to this many tokens the matrix of scores is cheap to hold."""


def install_fast_attention(transformer: CogVideoXTransformer3DModel) -> None:
    """Sets attention processors that give what diffusers' give, faster on a CPU: a setting, not a change."""
    mend_torchvision()
    from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0

    transformer.set_attn_processor(VideoAttention(CogVideoXAttnProcessor2_0()))


class VideoAttention:
    """A diffusers attention processor.

    Against `CogVideoXAttnProcessor2_0` on one core it rotates queries and keys in a quarter of the time, as
    complex numbers, and attends in half the time in bfloat16, for which torch's fused CPU kernel has a slow
    backward pass.
    """

    def __init__(self, elsewhere: Any) -> None:
        """elsewhere: the processor for other devices."""
        self.elsewhere = elsewhere

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b visual c"],
        encoder_hidden_states: Float[Tensor, "b n c"],
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "b visual c"], Float[Tensor, "b n c"]]:
        """The visual and the text tokens after attention among all of them."""
        if hidden_states.device.type != "cpu" or attention_mask is not None:
            return self.elsewhere(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        num_text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        heads = (attn.heads, -1)
        queries = attn.norm_q(attn.to_q(tokens).unflatten(-1, heads))
        keys = attn.norm_k(attn.to_k(tokens).unflatten(-1, heads))
        values = attn.to_v(tokens).unflatten(-1, heads)
        if image_rotary_emb is not None:
            turns = rotations(image_rotary_emb, num_text)
            queries, keys = rotate(queries, turns), rotate(keys, turns)
        parts = (x.to(values.dtype).transpose(1, 2) for x in (queries, keys, values))
        attended = attend(*parts).transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            attended = layer(attended)
        return attended[:, num_text:], attended[:, :num_text]


def rotations(
    rotary: tuple[Float[Tensor, "visual d"], Float[Tensor, "visual d"]], num_text: int
) -> Tensor:
    """Unit complex numbers `[s 1 d/2]`, one for each pair of channels; text tokens are not turned."""
    cosines, sines = (values[:, ::2].float() for values in rotary)
    turns = torch.complex(cosines, sines)
    return F.pad(turns, (0, 0, num_text, 0), value=1.0)[:, None]


def rotate(values: Float[Tensor, "b s m d"], turns: Tensor) -> Float[Tensor, "b s m d"]:
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(values.dtype)


def attend(
    queries: Float[Tensor, "b m s d"],
    keys: Float[Tensor, "b m s d"],
    values: Float[Tensor, "b m s d"],
) -> Float[Tensor, "b m s d"]:
    """Scaled dot-product attention: written out in half precision, by torch's kernel otherwise."""
    if queries.dtype != torch.bfloat16 or queries.shape[2] > MOST_TOKENS:
        return F.scaled_dot_product_attention(queries, keys, values)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    return scores.softmax(dim=-1).to(values.dtype) @ values

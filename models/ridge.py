"""Closed-form fits of convolutions by ridge regression."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def fit_convolution(
    layer: nn.Conv2d,
    inputs: Float[Tensor, "n c h w"],
    targets: Float[Tensor, "n o h w"],
    ridge: float = 1e-4,
) -> None:
    """Sets `layer`'s weights to the least-squares map from `inputs` to `targets`.

    layer: stride 1, an odd kernel, padding that keeps the size.
    ridge: weight of the squared coefficients, relative to the number of samples; inputs are taken to have
        about unit variance. The bias is not penalised in practice (its feature is 1).
    """
    size = layer.kernel_size[0]
    assert layer.stride == (1, 1) and size % 2 == 1
    padded = F.pad(inputs, [size // 2] * 4, mode="replicate")
    num_features = inputs.shape[1] * size * size + 1
    gram = torch.zeros(num_features, num_features, dtype=torch.float64)
    moment = torch.zeros(num_features, targets.shape[1], dtype=torch.float64)
    num_samples = 0
    for image, target in zip(padded.split(64), targets.split(64), strict=True):
        features = F.unfold(image, size).transpose(1, 2).flatten(0, 1)
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1).double()
        gram += features.T @ features
        moment += features.T @ target.flatten(2).transpose(1, 2).flatten(0, 1).double()
        num_samples += len(features)
    gram += ridge * num_samples * torch.eye(num_features, dtype=torch.float64)
    weights = torch.linalg.solve(gram, moment)
    layer.weight.copy_(weights[:-1].T.reshape(layer.weight.shape))
    bias_of(layer).copy_(weights[-1])


def bias_of(layer: nn.Conv2d) -> Tensor:
    """The bias of a layer that was made with one."""
    assert layer.bias is not None
    return layer.bias

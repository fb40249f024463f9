"""Distances of two sets of features, as torchmetrics computes them for FID and KID, in float64."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

import models.torchvision_compat  # noqa: F401  mends torchvision before torchmetrics imports it


@dataclass(frozen=True)
class KernelDistance:
    """KID's squared maximum mean discrepancy: mean and standard deviation over subsets.

    subset_size: rows drawn from each set. std is None where the subsets would all be the whole sets.
    """

    mean: float
    std: float | None
    subset_size: int


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of at least two rows each.

    |mean1 - mean2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances by n - 1 (Heusel et al. 2017). It is
    biased: the fewer rows, the larger. With no more rows than features the covariances lack rank, and eigenvalues
    that should be 0 leave an error of about 1e-6 of the value.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(_AsTheyAre(first.shape[1]), normalize=True)
    distance.update(first.double(), real=False)
    distance.update(second.double(), real=True)
    return float(distance.compute())


def kernel_distance(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "m d"],
    subsets: int,
    subset_size: int,
    seed: int,
) -> KernelDistance:
    """KID (Bińkowski et al. 2018): unbiased, polynomial kernel of degree 3, over random subsets.

    Subsets are no larger than the smaller set; where both sets are as large as that there is one way to draw
    them, and it is taken once. Sets have at least two rows each.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(first), len(second))
    only_one = size == len(first) == len(second)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
        torch.manual_seed(seed)  # the library draws its subsets from the global generator
        distance = KernelInceptionDistance(
            _AsTheyAre(first.shape[1]), subsets=1 if only_one else subsets, subset_size=size
        )
        distance.update(first.double(), real=False)
        distance.update(second.double(), real=True)
        value, std = distance.compute()
    return KernelDistance(float(value), None if only_one else float(std), size)


class _AsTheyAre(nn.Module):
    """Stands where the libraries expect a network: the rows that go in are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return features

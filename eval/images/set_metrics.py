"""FID, KID and FVD: how far the frames and videos of all clips are from those of their references, as sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from configs.errors import UserError
from configs.loader import Config
from eval.images.clip_features import ClipFeatures, FeatureFolder, extract_features
from eval.images.feature_networks import (
    FRAMES,
    VIDEO,
    FeatureNetwork,
    InceptionLayer,
    InceptionNetwork,
    ValueRange,
    VideoNetwork,
    inception_problem,
)
from eval.images.frame_checks import check_pair
from eval.images.metric_weights import find_weights
from eval.images.set_distances import frechet_distance, kernel_distance
from eval.scores.measured import NotAvailable, to_json
from eval.scores.protocols import FrameProtocol
from models.published_weights import I3D, INCEPTION
from train.randomness import derive_seed

FRECHET_DIGITS = 3
"""Decimals of FID and FVD: covariances of fewer samples than features leave an error of about 1e-6 of the value."""
KID_DIGITS = 6
FEATURES = "features"
"""Where a score's folder keeps what the networks say of its clips."""


class SetMetricsConfig(Config):
    """Which set metrics run, and with what."""

    fid: bool = Field(True, description="FID and KID, where Inception's weights are")
    inception: Path | None = Field(
        None, description="Inception v3 as torch-fidelity publishes it; null: torch's cache"
    )
    inception_layer: InceptionLayer = Field(2048, description="width of the features")
    antialias: bool = Field(True, description="resize frames for Inception as torchmetrics does")
    kid_subsets: int = Field(100, gt=0)
    kid_subset_size: int = Field(
        1000, ge=2, description="frames; fewer where there are not as many"
    )
    fvd: bool = Field(True, description="FVD, where its network is")
    fvd_network: Path | None = Field(
        None,
        description="TorchScript [b 3 t h w] -> [b d]; null: StyleGAN-V's I3D in torch's cache",
    )
    fvd_size: int | None = Field(
        224, gt=0, description="px, for a network that does not resize by itself; null: as they are"
    )
    fvd_values: ValueRange = Field("-1..1", description="for a network that does not rescale")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where the networks run")


@dataclass(frozen=True)
class SetScore:
    """One set metric.

    samples: rows of features of each of the two sets (frames, or clips), from `clips` clips. left_out: clips that
    the network could not take, and why. note: what to know before the number is compared with another; empty where
    there is nothing. std, subset_size: KID's, over its subsets.
    """

    value: float
    samples: int
    clips: int
    left_out: dict[int, str]
    network: str
    note: str = ""
    std: float | None = None
    subset_size: int | None = None

    def line(self, digits: int) -> dict[str, Any]:
        """Plain JSON, without what is empty."""
        return {
            name: to_json(value, digits)
            for name, value in asdict(self).items()
            if value not in (None, "", {})
        }


@dataclass(frozen=True)
class SetScores:
    """FID and KID over all frames, FVD over all clips."""

    fid: SetScore | NotAvailable
    kid: SetScore | NotAvailable
    fvd: SetScore | NotAvailable

    def line(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "fid": _line(self.fid, FRECHET_DIGITS),
            "kid": _line(self.kid, KID_DIGITS),
            "fvd": _line(self.fvd, FRECHET_DIGITS),
        }


class SetMetrics:
    """The set metrics of a run: features of each clip as it is scored, the metrics at the end.

    folder: where the features are kept. networks: instead of those of the recipe, by the names FRAMES and VIDEO.
    key: of `config` in the recipe with a dot after it, for messages. Raises UserError where a file that the recipe
    names is missing or is not such a network.
    """

    def __init__(
        self,
        config: SetMetricsConfig,
        folder: Path,
        networks: Mapping[str, FeatureNetwork | NotAvailable] | None = None,
        key: str = "",
    ) -> None:
        self.config = config
        found = load_networks(config, key) if networks is None else networks
        self.missing = {n: net for n, net in found.items() if isinstance(net, NotAvailable)}
        self.networks = {n: net for n, net in found.items() if not isinstance(net, NotAvailable)}
        labels = {name: network.label for name, network in self.networks.items()}
        self.files = FeatureFolder(folder, labels)

    @property
    def identity(self) -> dict[str, str]:
        """What the numbers depend on besides frames and settings: a label of each network."""
        return {
            f"{name}_network": self.files.labels.get(name, "not available")
            for name in (FRAMES, VIDEO)
        }

    def add(
        self,
        clip: int,
        frames: Float[Tensor, "t 3 h w"],
        reference: Float[Tensor, "u 3 g v"],
        source: str,
        protocol: FrameProtocol | None = None,
    ) -> None:
        """Keeps the features of a clip's frames and of its reference's; the same clip again replaces them.

        Raises UserError for frames that do not fit their reference or cannot be scored.
        """
        views = list((protocol or FrameProtocol()).set_views(len(frames), source))
        check_pair(frames, reference, source, views)
        if self.networks:
            features = extract_features(frames[views], reference[views], self.networks)
            self.files.write(clip, features)

    def scores(self, clips: Sequence[int], seed: int = 0) -> SetScores:
        """The metrics over these clips, in this order, from the files. seed: of KID's subsets.

        Raises UserError where a clip's features are missing or damaged.
        """
        stored = {clip: self.files.read(clip) for clip in clips} if self.networks else {}
        frames, videos = self._gather(FRAMES, stored), self._gather(VIDEO, stored)
        return SetScores(
            fid=_frechet_score(frames),
            kid=_kid_score(frames, self.config, seed),
            fvd=_frechet_score(videos),
        )

    def _gather(self, name: str, stored: Mapping[int, ClipFeatures]) -> _Features | NotAvailable:
        if name in self.missing:
            return self.missing[name]
        pairs = [one.features[name] for one in stored.values() if name in one.features]
        left_out = {clip: one.missing[name] for clip, one in stored.items() if name in one.missing}
        if not pairs:
            return NotAvailable(next(iter(left_out.values()), "no clip has been scored"))
        generated, reference = (torch.cat(side) for side in zip(*pairs, strict=True))
        if len(generated) < 2:
            return NotAvailable(
                "it is a distance of two sets, and there is one sample: score at least two clips"
            )
        return _Features(generated, reference, len(pairs), left_out, self.files.labels[name])


def load_networks(
    config: SetMetricsConfig, key: str = ""
) -> dict[str, FeatureNetwork | NotAvailable]:
    """The networks that the recipe asks for, by the names FRAMES and VIDEO; never downloads.

    key: as for `SetMetrics`. Raises UserError where a file that the recipe names is missing or is not such a network.
    """
    return {FRAMES: _frame_network(config, key), VIDEO: _video_network(config, key)}


@dataclass(frozen=True)
class _Features:
    """What one network says of all clips."""

    generated: Float[Tensor, "n d"]
    reference: Float[Tensor, "m d"]
    clips: int
    left_out: dict[int, str]
    network: str


def _frame_network(config: SetMetricsConfig, key: str) -> FeatureNetwork | NotAvailable:
    if not config.fid:
        return NotAvailable("switched off in the recipe (fid: false)")
    if problem := inception_problem():
        return NotAvailable(problem)
    found = find_weights(INCEPTION, config.inception, "FID and KID", f"{key}inception")
    if isinstance(found, NotAvailable):
        return found
    return InceptionNetwork(found, config.inception_layer, config.antialias, _device(config))


def _video_network(config: SetMetricsConfig, key: str) -> FeatureNetwork | NotAvailable:
    if not config.fvd:
        return NotAvailable("switched off in the recipe (fvd: false)")
    found = find_weights(I3D, config.fvd_network, "FVD", f"{key}fvd_network")
    if isinstance(found, NotAvailable):
        return found
    return VideoNetwork(found, config.fvd_size, config.fvd_values, _device(config))


def _device(config: SetMetricsConfig) -> torch.device:
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UserError("device=cuda, but PyTorch finds no CUDA device; use device=cpu")
    return torch.device("cuda" if config.device != "cpu" and there else "cpu")


def _frechet_score(features: _Features | NotAvailable) -> SetScore | NotAvailable:
    if isinstance(features, NotAvailable):
        return features
    samples, width = features.generated.shape
    note = (
        f"of {samples} samples with {width} features each: biased upwards, compare only with a value of as many"
        if samples <= width
        else ""
    )
    value = frechet_distance(features.generated, features.reference)
    return SetScore(value, samples, features.clips, features.left_out, features.network, note)


def _kid_score(
    features: _Features | NotAvailable, config: SetMetricsConfig, seed: int
) -> SetScore | NotAvailable:
    if isinstance(features, NotAvailable):
        return features
    found = kernel_distance(
        features.generated,
        features.reference,
        config.kid_subsets,
        config.kid_subset_size,
        derive_seed("kid", seed),
    )
    return SetScore(
        found.mean,
        len(features.generated),
        features.clips,
        features.left_out,
        features.network,
        std=found.std,
        subset_size=found.subset_size,
    )


def _too_few(features: _Features, metric: str) -> NotAvailable | None:
    if len(features.generated) >= 2:
        return None
    return NotAvailable(
        f"{metric} is a distance of two sets: it needs at least two samples of each"
    )


def _line(score: SetScore | NotAvailable, digits: int) -> dict[str, Any]:
    found = to_json(score) if isinstance(score, NotAvailable) else score.line(digits)
    assert isinstance(found, dict)
    return found

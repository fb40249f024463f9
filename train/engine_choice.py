"""Which engine runs a recipe here."""

from __future__ import annotations

from torch import nn

from configs.errors import UserError
from train.engine import Engine, EngineConfig, PlainEngine, StepRule
from train.optimizer import OptimizerConfig
from train.ranks import Ranks


def create_engine(
    module: nn.Module,
    optimizer: OptimizerConfig,
    config: EngineConfig,
    rule: StepRule,
    ranks: Ranks,
) -> Engine:
    """The engine that `config.kind` names. Raises UserError where it can't run here."""
    kind = config.kind
    if kind == "auto":
        alone = ranks.world_size == 1 and config.offload == "none"
        kind = "plain" if alone else "deepspeed"
    if kind == "plain":
        if ranks.world_size > 1:
            raise UserError(
                f"engine.kind=plain trains in one process, but {ranks.world_size} were started;"
                " use engine.kind=deepspeed"
            )
        return PlainEngine(module, optimizer, config, rule, ranks)
    from train.deepspeed_engine import DeepSpeedEngine  # heavy: only where it is used

    return DeepSpeedEngine(module, optimizer, config, rule, ranks)

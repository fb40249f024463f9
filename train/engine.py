"""What stands between the loop and the machine: one process here, DeepSpeed in `deepspeed_engine.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from configs.errors import UserError
from configs.loader import Config
from train.optimizer import OptimizerConfig, create_optimizer, trainable_parameters
from train.ranks import Ranks
from train.tensor_files import Entry


class EngineConfig(Config):
    """How the training runs on this machine."""

    may_change: ClassVar = frozenset({"kind", "device", "zero_stage", "offload", "threads"})

    kind: Literal["auto", "plain", "deepspeed"] = Field(
        "auto", description="auto: plain for one process, DeepSpeed for several"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast; weights and optimizer stay in fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed only")
    offload: Literal["none", "optimizer", "weights"] = Field(
        "none",
        description="optimizer: AdamW steps in host memory (DeepSpeed's stages 1 to 3); weights: they lie there"
        " too (stage 3)",
    )
    threads: int | None = Field(None, gt=0, description="CPU threads a process; null: the default")

    @model_validator(mode="after")
    def _offload_is_possible(self) -> EngineConfig:
        if self.offload != "none" and self.kind == "plain":
            raise ValueError("offload needs kind=deepspeed")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload=optimizer needs zero_stage 1, 2 or 3")
        if self.offload == "weights" and self.zero_stage != 3:
            raise ValueError("offload=weights needs zero_stage=3")
        return self


@dataclass(frozen=True)
class StepRule:
    """What one optimizer step is made of: so many backward passes, and the largest gradient norm."""

    parts: int = 1
    clip_norm: float | None = None


@dataclass(frozen=True)
class StepResult:
    """grad_norm: of all gradients, before clipping. applied: whether the weights moved."""

    grad_norm: float
    applied: bool


@runtime_checkable
class Engine(Protocol):
    """Owns module, optimizer and precision. All methods are called by every rank together.

    model: what tasks call. sharded: whether the ranks exchange weights whenever it is called.
    """

    ranks: Ranks
    device: torch.device
    model: nn.Module
    sharded: bool

    def autocast(self) -> AbstractContextManager[None]:
        """The precision in which losses are computed."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of loss / `rule.parts`; called that many times before each `step`."""
        ...

    def step(self, *, lr: float, norm_limit: float, skip: bool) -> StepResult:
        """Updates the weights, unless `skip`, or the norm isn't finite or above `norm_limit`.

        Either way the gradients are gone after it.
        """
        ...

    def local_weights(self) -> dict[str, Tensor]:
        """The trainable tensors as stored on this rank (ZeRO-3 stores a slice)."""
        ...

    def weights_changed(self) -> None:
        """Must be called after `local_weights` were written to, before the model is called again."""
        ...

    def whole_weights(self) -> AbstractContextManager[nn.Module]:
        """The bare module with every weight in full, for export; nothing is trained after it."""
        ...

    def entries(self) -> dict[str, list[Entry]]:
        """All that a checkpoint must hold, the same for every kind of engine and number of ranks."""
        ...

    def local_entries(self, local: Mapping[str, Tensor]) -> list[Entry]:
        """Entries of tensors that are laid out like `local_weights` (an average of them, say)."""
        ...

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes back what `entries` gave. Raises UserError where names or shapes differ."""
        ...

    def load_local(self, local: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """Takes back into `local` what `local_entries` gave."""
        ...


class PlainEngine:
    """The engine of a single process, on the CPU or one GPU."""

    sharded = False

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerConfig,
        config: EngineConfig,
        rule: StepRule,
        ranks: Ranks,
    ) -> None:
        self.config, self.rule, self.ranks = config, rule, ranks
        self.device = ranks.device
        self.model = module.to(self.device)
        self.optimizer = create_optimizer(self.model, optimizer)
        self.parameters = trainable_parameters(self.model)

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.config.precision)

    def backward(self, loss: Tensor) -> None:
        (loss / self.rule.parts).backward()

    def step(self, *, lr: float, norm_limit: float, skip: bool) -> StepResult:
        limit = math.inf if self.rule.clip_norm is None else self.rule.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))
        applied = not skip and math.isfinite(norm) and norm <= norm_limit
        if applied:
            set_learning_rate(self.optimizer, lr)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(norm, applied)

    def local_weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}

    def weights_changed(self) -> None:
        pass

    @contextmanager
    def whole_weights(self) -> Iterator[nn.Module]:
        yield self.model

    def entries(self) -> dict[str, list[Entry]]:
        return {
            "model": self.local_entries(self.local_weights() | persistent_buffers(self.model)),
            "optimizer": [
                Entry.of(f"{name}/{key}", value)
                for name, parameter in self.parameters.items()
                for key, value in sorted(self.optimizer.state[parameter].items())
            ],
        }

    def local_entries(self, local: Mapping[str, Tensor]) -> list[Entry]:
        return [Entry.of(name, tensor) for name, tensor in local.items()]

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.load_local(self.local_weights() | persistent_buffers(self.model), tensors["model"])
        for key, value in tensors["optimizer"].items():
            name, _, slot = key.rpartition("/")
            parameter = self.parameters[name]
            device = "cpu" if value.ndim == 0 else parameter.device  # AdamW counts steps on the CPU
            self.optimizer.state[parameter][slot] = value.to(device)

    def load_local(self, local: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        check_same_tensors({name: tuple(value.shape) for name, value in local.items()}, tensors)
        with torch.no_grad():
            for name, value in local.items():
                value.copy_(tensors[name])


def set_threads(threads: int | None) -> None:
    """Limits the CPU threads of PyTorch, which our kernels follow; None leaves the default.

    numba must not be asked for its own number of threads: that starts its OpenMP layer, which sets PyTorch's back.
    """
    if threads is not None:
        torch.set_num_threads(threads)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that belong to a module's saved state, by name."""
    saved = set(module.state_dict())
    return {name: value for name, value in module.named_buffers() if name in saved}


def check_same_tensors(expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]) -> None:
    """Raises UserError where names or shapes of saved tensors are not the expected ones."""
    different = sorted(set(expected) ^ set(found))
    if different:
        state = "is not in the checkpoint" if different[0] in expected else "is not in the model"
        raise UserError(
            f"{different[0]} {state} ({len(different)} such tensors): the code or recipe differs"
            " from the one that saved it; start a new run with another name=..."
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != tuple(shape):
            raise UserError(
                f"{name} is {list(found[name].shape)} in the checkpoint, but {list(shape)} in the"
                " model; start a new run with another name=..."
            )

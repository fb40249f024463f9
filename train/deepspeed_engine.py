"""The engine of several processes: DeepSpeed's ZeRO, stages 0 to 3, on gloo or NCCL.

Checkpoints don't go through DeepSpeed, whose files are pickled and bound to a stage and a number of ranks:
weights and optimizer state are gathered tensor by tensor, and have the same names and values as the plain
engine's. So a run may go on with another engine, stage or number of ranks, and nothing is unpickled.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.errors import UserError
from train.dataclass_outputs import OpenedOutputs
from train.engine import (
    EngineConfig,
    StepResult,
    StepRule,
    autocast,
    check_same_tensors,
    persistent_buffers,
    set_learning_rate,
)
from train.optimizer import OptimizerConfig, create_optimizer, trainable_parameters
from train.ranks import Ranks
from train.tensor_files import Entry

SLOTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state with the shape of a parameter; its other entry is the scalar "step"."""


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that asks before it steps. DeepSpeed computes the gradient's norm just before, and not sooner."""

    may_step: Callable[[], bool]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.may_step():
            super().step()


class DeepSpeedEngine:
    """Implements `train.engine.Engine` by DeepSpeed."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerConfig,
        config: EngineConfig,
        rule: StepRule,
        ranks: Ranks,
    ) -> None:
        self.config, self.rule, self.ranks = config, rule, ranks
        self.device, self.stage = ranks.device, config.zero_stage
        self.sharded = self.stage == 3
        deepspeed = import_deepspeed(self.device)
        if not dist.is_initialized():
            store = dist.HashStore()  # type: ignore[attr-defined]
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        module = module.to(self.device)
        self.shapes = {name: tuple(p.shape) for name, p in trainable_parameters(module).items()}
        guarded = create_optimizer(module, optimizer, GuardedAdamW)
        assert isinstance(guarded, GuardedAdamW)
        guarded.may_step = self._may_step
        self.optimizer = guarded
        opened = OpenedOutputs(module) if self.stage == 3 else None
        self.model, self.zero, _, _ = deepspeed.initialize(
            model=module,
            optimizer=guarded,
            config=deepspeed_settings(config, rule),
            dist_init_required=False,
        )
        if opened is not None:
            opened.close_again()
        self.module = module
        # DeepSpeed hangs attributes of its own on them.
        self.parameters: dict[str, Any] = dict(trainable_parameters(module))
        self._parts_done = 0
        self._norm_limit, self._skip = math.inf, False
        self._result = StepResult(math.inf, False)

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.config.precision)

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss)
        self._parts_done += 1
        if self._parts_done < self.rule.parts:
            self.model.step()  # counts the part; the last one is left to `step`

    def step(self, *, lr: float, norm_limit: float, skip: bool) -> StepResult:
        assert self._parts_done == self.rule.parts
        self._parts_done = 0
        self._norm_limit, self._skip = norm_limit, skip
        # What stands where DeepSpeed itself leaves a step out, for a norm that isn't finite.
        self._result = StepResult(math.inf, False)
        set_learning_rate(self.optimizer, lr)
        self.model.step()
        return self._result

    def _may_step(self) -> bool:
        """Called within DeepSpeed's step, once for each group of parameters."""
        if self.stage == 0:
            limit = math.inf if self.rule.clip_norm is None else self.rule.clip_norm
            norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))
        else:
            norm = float(self.zero._global_grad_norm)
        applied = not self._skip and math.isfinite(norm) and norm <= self._norm_limit
        self._result = StepResult(norm, applied)
        return applied

    def local_weights(self) -> dict[str, Tensor]:
        return {
            name: (p.ds_tensor if self.stage == 3 else p).detach()
            for name, p in self.parameters.items()
        }

    def weights_changed(self) -> None:
        if self.stage == 3:  # gathered copies are stale now
            self.zero.parameter_offload.partition_all_parameters()

    @contextmanager
    def whole_weights(self) -> Iterator[nn.Module]:
        if self.stage < 3:
            yield self.module
            return
        import deepspeed

        # Its hooks would share out a module's weights again, on all ranks, as soon as one rank had called it.
        self.zero.parameter_offload.destroy()
        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            yield self.module

    def entries(self) -> dict[str, list[Entry]]:
        buffers = persistent_buffers(self.module)
        optimizer = []
        for name, shape in self.shapes.items():
            for slot in SLOTS:
                fetch = partial(self._gather_slot, name, slot)
                optimizer.append(Entry(f"{name}/{slot}", torch.float32, shape, fetch))
            fetch = partial(self._num_steps, name)
            optimizer.append(Entry(f"{name}/step", torch.float32, (), fetch))
        return {
            "model": [
                *self.local_entries(self.local_weights()),
                *(Entry.of(name, value) for name, value in buffers.items()),
            ],
            "optimizer": optimizer if self._has_stepped() else [],
        }

    def local_entries(self, local: Mapping[str, Tensor]) -> list[Entry]:
        return [
            Entry(name, value.dtype, self.shapes[name], partial(self._whole, name, value))
            for name, value in local.items()
        ]

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        buffers = persistent_buffers(self.module)
        weights = self.local_weights()
        saved = tensors["model"]
        check_same_tensors(self.shapes | {k: tuple(v.shape) for k, v in buffers.items()}, saved)
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(saved[name])
            for name, weight in weights.items():
                self._copy_local(name, weight, saved[name])
                home = self._home(name)
                if home is not None:
                    home.part_of(home.flat).copy_(home.share_of(saved[name]))
            self._load_optimizer(tensors["optimizer"])
        self.weights_changed()

    def load_local(self, local: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        check_same_tensors({name: self.shapes[name] for name in local}, tensors)
        with torch.no_grad():
            for name, value in local.items():
                self._copy_local(name, value, tensors[name])

    def _load_optimizer(self, saved: Mapping[str, Tensor]) -> None:
        for name in self.shapes:
            home = self._home(name)
            if home is None or f"{name}/step" not in saved:
                continue
            state = self.optimizer.state[home.flat]
            state["step"] = saved[f"{name}/step"].clone()
            for slot in SLOTS:
                whole = state.setdefault(slot, torch.zeros_like(home.flat))
                home.part_of(whole).copy_(home.share_of(saved[f"{name}/{slot}"]))

    def _home(self, name: str) -> Home | None:
        """Where this rank keeps its share of a parameter; None where it has none of it."""
        parameter = self.parameters[name]
        if self.stage == 0:
            return Home(parameter, 0, 0, parameter.numel())
        if self.stage == 3:
            group, offset, num_values = self.zero.grad_position[self.zero.get_param_id(parameter)]
            start = self.ranks.rank * parameter.ds_tensor.numel()
            num_values = max(0, min(num_values, parameter.ds_numel - start))
            flat = self.zero.fp32_partitioned_groups_flat[group]
            return Home(flat, offset, start, num_values)
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        place, share = mapping.hp_fragment_address, mapping.lp_fragment_address
        flat = self.zero.single_partition_of_fp32_groups[mapping.param_group_index]
        return Home(flat, place.start, share.start, share.numel)

    def _gather_slot(self, name: str, slot: str) -> Tensor:
        """One of AdamW's averages for a whole parameter, on every rank."""
        home = self._home(name)
        if self.stage == 0:
            assert home is not None
            return self.optimizer.state[home.flat][slot]
        whole = torch.zeros(math.prod(self.shapes[name]), device=self.device)
        if home is not None:
            home.share_of(whole).copy_(home.part_of(self.optimizer.state[home.flat][slot]))
        return self._summed(whole).view(self.shapes[name])

    def _num_steps(self, name: str) -> Tensor:
        home = self._home(name)
        steps = 0.0 if home is None else float(self.optimizer.state[home.flat]["step"])
        return torch.tensor(self.ranks.maximum([steps])[0], dtype=torch.float32)

    def _has_stepped(self) -> bool:
        return any("step" in state for state in self.optimizer.state.values())

    def _whole(self, name: str, local: Tensor) -> Tensor:
        """The full tensor of what is laid out like `local_weights`, on every rank."""
        if self.stage < 3:
            return local
        num_values = math.prod(self.shapes[name])
        padded = torch.zeros(
            local.numel() * self.ranks.world_size, dtype=local.dtype, device=self.device
        )
        padded.narrow(0, self.ranks.rank * local.numel(), local.numel()).copy_(local)
        return self._summed(padded)[:num_values].view(self.shapes[name])

    def _copy_local(self, name: str, local: Tensor, whole: Tensor) -> None:
        """Writes this rank's part of a full tensor into what is laid out like `local_weights`."""
        if self.stage < 3:
            local.copy_(whole)
            return
        start = self.ranks.rank * local.numel()
        share = whole.reshape(-1)[start : start + local.numel()]
        local[: share.numel()].copy_(share)

    def _summed(self, values: Tensor) -> Tensor:
        if self.ranks.world_size > 1:
            dist.all_reduce(values)
        return values


@dataclass(frozen=True)
class Home:
    """A rank's share of a parameter in the flat tensor that its AdamW steps.

    flat: that tensor. offset: where the share lies in it. start: where the share lies in the parameter.
    """

    flat: Tensor
    offset: int
    start: int
    num_values: int

    def part_of(self, flat: Tensor) -> Tensor:
        """The share, in a tensor laid out like `flat`."""
        return flat.view(-1).narrow(0, self.offset, self.num_values)

    def share_of(self, whole: Tensor) -> Tensor:
        """The share, in a tensor laid out like the parameter."""
        return whole.view(-1).narrow(0, self.start, self.num_values)


def deepspeed_settings(config: EngineConfig, rule: StepRule) -> dict[str, Any]:
    """DeepSpeed's configuration: the one place where ours is translated."""
    # In stage 0 the norm is ours to compute, and so the clipping.
    clip_norm = 0.0 if config.zero_stage == 0 or rule.clip_norm is None else rule.clip_norm
    zero: dict[str, Any] = {"stage": config.zero_stage}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload != "none":
        zero["offload_optimizer"] = host
    if config.offload == "weights":
        zero["offload_param"] = host
    return {
        # DeepSpeed wants a batch size and does nothing with it here: the loader makes the batches.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": rule.parts,
        "gradient_clipping": clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            # Layers named here would have their gradients summed over the ranks in bf16.
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 2**31,
    }


def import_deepspeed(device: torch.device) -> ModuleType:
    """The library, quiet, on the given kind of device, and kept from compiling at start."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists on it even in one process
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise UserError(
            f"engine.kind=deepspeed needs DeepSpeed, which does not import here ({error}); install it"
            " with pip install deepspeed, or train in one process with engine.kind=plain"
        ) from error
    # Its shared-memory reductions for the CPU would take a minute of C++ compiler; gloo's will do.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", message=".*torch.distributed.*deprecated", category=FutureWarning
    )
    return deepspeed

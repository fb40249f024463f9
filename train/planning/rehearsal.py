"""One whole training step under fake tensors: forward, loss, backward, clipping and optimizer, without memory.

It runs the task's own `losses` on the task's own model, at full size, so that a wrong shape, dtype or device shows
here and not on a cluster. What it allocates and computes on the way is the plan's measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from train.engine import autocast
from train.optimizer import create_optimizer, trainable_parameters
from train.planning.dtype_check import DtypeCheck
from train.planning.fake_modules import every_tensor, make_fake, movable
from train.planning.gpu_rules import CudaAutocast, backward, use_gpu_attention
from train.planning.memory_tracker import GRADIENTS, MemoryTracker
from train.planning.outline import Outline

CPU = torch.device("cpu")
CUDA_BLOCK = 512
"""PyTorch's allocator gives GPU memory in multiples of so many bytes."""


@dataclass(frozen=True)
class Rehearsal:
    """What one step of one process held and computed, in bytes and FLOPs.

    batch: bytes of its share of the batch.
    peak: most bytes at once in forward and backward, beside weights, optimizer states and batch.
    peak_beside_gradients: the same without the gradients of trainable weights.
    held: what that was, by origin.
    after_forward: bytes kept for the backward pass.
    step_peak: most bytes at once in the optimizer's step, beside weights, gradients and states.
    gradients, states: bytes of all gradients and all optimizer states.
    forward, backward: FLOPs of matrix products, convolutions and attention, by origin; the backward pass counts what
        checkpointing computes again.
    losses: names of what the task reported.
    without_gradient: trainable parameters that the loss does not reach.
    """

    batch: int
    peak: int
    peak_beside_gradients: int
    held: dict[str, int]
    after_forward: int
    step_peak: int
    gradients: int
    states: int
    forward: dict[str, int]
    backward: dict[str, int]
    losses: tuple[str, ...]
    without_gradient: tuple[str, ...]


def rehearse(outline: Outline, batch_size: int, *, on_gpu: bool = True) -> Rehearsal:
    """The step of one process with `batch_size` samples. The outline's modules can't be used after it.

    on_gpu: as a GPU would run it, else as this CPU does.
    Raises whatever the step raises.
    """
    recipe, model = outline.recipe, outline.model
    modules = [model, *outline.frozen.values()]
    if on_gpu:
        for module in modules:
            use_gpu_attention(module)
    tracker = MemoryTracker(CUDA_BLOCK if on_gpu else 1)
    with FakeTensorMode(allow_non_fake_inputs=True), movable():
        batch = make_batch(outline, batch_size, CPU)
        make_fake(modules, CPU)
        model.to(CPU)
        optimizer = create_optimizer(model, recipe.optimizer)
        if on_gpu:  # where AdamW goes through all tensors at once
            for group in optimizer.param_groups:
                group["foreach"] = True
        model.train()
        parameters = trainable_parameters(model)
        batch_bytes = tracker.leave_out(batch.values())
        tracker.leave_out(every_tensor(modules))
        tracker.watch(parameters.values())
        rules = CudaAutocast() if on_gpu else nullcontext()
        with rules, tracker, DtypeCheck(on_gpu), origins(outline, tracker):
            with autocast(CPU, recipe.engine.precision), tracker.origin("loss"):
                losses = outline.task.losses(model, batch, torch.Generator())
            names, after_forward = tuple(losses), tracker.total
            forward_flops, tracker.flops = tracker.flops, Counter()
            loss = losses.pop("loss")
            losses.clear()
            with tracker.origin("backward pass"):
                backward(loss)
            backward_flops, tracker.flops = tracker.flops, Counter()
            peaks, held = (tracker.peak, tracker.peak_beside_gradients), tracker.at_peak
            del loss
            gradients, before = tracker.live[GRADIENTS], tracker.total
            if recipe.loop.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters.values(), recipe.loop.clip_norm)
            with tracker.origin("optimizer states"):
                optimizer.step()
            states = sum(
                tensor.nbytes for state in optimizer.state.values() for tensor in state.values()
            )
            tracker.restart_peaks()
            optimizer.step()  # the first one made the states
            step_peak = tracker.peak - before - states
    return Rehearsal(
        batch=batch_bytes,
        peak=peaks[0],
        peak_beside_gradients=peaks[1],
        held={name: size for name, size in held.items() if size and name != GRADIENTS},
        after_forward=after_forward,
        step_peak=max(0, step_peak),
        gradients=gradients,
        states=states,
        forward=dict(forward_flops),
        backward=dict(backward_flops),
        losses=names,
        without_gradient=tuple(name for name, p in parameters.items() if p.grad is None),
    )


def check_devices(outline: Outline, batch_size: int) -> None:
    """Runs forward and backward once more with model and batch on another device than all else.

    So that a frozen helper, or a tensor made on the CPU, that nothing moves to the GPU is found. Raises what PyTorch
    raises where devices meet. The outline's modules can't be used after it.
    """
    model, meta = outline.model, torch.device("meta")
    frozen = list(outline.frozen.values())
    with FakeTensorMode(allow_non_fake_inputs=True), movable():
        batch = make_batch(outline, batch_size, meta)
        make_fake([model, *frozen], CPU)
        for part in (model, *frozen):
            part.float()  # no autocast brings dtypes together here
        model.to(meta)
        model.train()
        outline.task.losses(model, batch, torch.Generator())["loss"].backward()


def make_batch(outline: Outline, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    """Tensors shaped as a batch of the loader's."""
    return {
        name: torch.empty(batch_size, *shape, device=device)
        for name, shape in outline.sample.items()
    }


@contextmanager
def origins(outline: Outline, tracker: MemoryTracker) -> Iterator[None]:
    """Has what the model, the frozen helpers and the renderer make booked under their names."""
    task: Any = outline.task
    with ExitStack() as stack:
        parts = [
            (outline.model, "forward", "model"),
            (task, "latents", "autoencoder"),
            (task, "render", "renderer"),
            (getattr(task, "perceptual", None), "forward", "perceptual loss"),
        ]
        for owner, method, name in parts:
            if hasattr(owner, method):
                stack.enter_context(_booked(owner, method, name, tracker))
        yield


def _booked(
    owner: Any, method: str, name: str, tracker: MemoryTracker
) -> AbstractContextManager[None]:
    """Replaces a method (or a callable attribute) meanwhile by one that books under `name`."""
    original = getattr(owner, method)

    def booked(*args: Any, **kwargs: Any) -> Any:
        with tracker.origin(name):
            return original(*args, **kwargs)

    @contextmanager
    def replaced() -> Iterator[None]:
        before = vars(owner).get(method)
        vars(owner)[method] = booked
        try:
            yield
        finally:
            if before is None:
                del vars(owner)[method]
            else:
                vars(owner)[method] = before

    return replaced()

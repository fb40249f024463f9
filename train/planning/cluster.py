"""The machines that a plan is for, and what is assumed of them."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
"""Bytes of a GPU vendor's GB."""
H100_TFLOPS = 989.4
"""Dense bf16 peak of one H100 SXM, by NVIDIA's data sheet."""


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal GPUs.

    gpu_memory: bytes of one GPU.
    reserve: share of that memory left to what is not counted: CUDA context, NCCL, cuBLAS and cuDNN work space,
        fragmentation. Assumed.
    peak: matrix FLOP/s of one GPU. utilisation: the share of it that a step reaches. Assumed.
    splat_rate: splats that one GPU draws in a second, forwards and backwards; None where that is not known.
    """

    nodes: int = 1
    gpus_per_node: int = 1
    gpu_memory: float = 80.0 * GIB
    reserve: float = 0.08
    peak: float = H100_TFLOPS * 1e12
    utilisation: float = 0.4
    splat_rate: float | None = None

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def usable(self) -> float:
        """Bytes of one GPU that a run may fill."""
        return self.gpu_memory * (1 - self.reserve)

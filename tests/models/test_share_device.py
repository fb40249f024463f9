"""Which device a command computes on, and which GPU is a process's own."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.work_share import ALL_WORK, WorkShare
from models.device_choice import device_of
from models.share_device import share_device


@pytest.fixture
def gpus(monkeypatch):
    """Has PyTorch find so many."""

    def find(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return find


def test_each_process_of_a_machine_has_its_own_gpu(gpus):
    gpus(4)
    found = [share_device("cuda", WorkShare(rank, 8, rank % 4, 4)) for rank in range(8)]
    assert [device.index for device in found] == [0, 1, 2, 3] * 2
    assert share_device("cuda:3", WorkShare(1, 8, 1, 4)).index == 3
    assert share_device(None, WorkShare(1, 8, 1, 4)).index == 1
    gpus(1)
    assert share_device("cuda", WorkShare(5, 8, 1, 4)).index == 0, "its scheduler shows it but one"


def test_the_cpu_is_shared_and_what_is_not_there_is_refused(gpus):
    assert share_device("cpu", WorkShare(1, 2)) == torch.device("cpu")
    gpus(0)
    assert share_device(None, WorkShare(1, 2)) == torch.device("cpu")
    with pytest.raises(UserError, match="--device is 'cuda', but PyTorch finds no CUDA GPU here"):
        share_device("cuda", ALL_WORK)
    with pytest.raises(UserError, match="PyTorch finds no CUDA GPU here"):
        share_device("cuda:0", ALL_WORK)


@pytest.mark.parametrize("name", ["gpu", "mps", "xpu", "meta", "cpu:1", "cuda:", "cuda:-1", ""])
def test_only_the_cpu_and_cuda_are_devices(gpus, name):
    gpus(2)
    with pytest.raises(UserError, match=f"--device is '{name}', expected cpu, cuda or cuda:N"):
        device_of(name)


def test_a_gpu_beyond_the_last_is_refused(gpus):
    gpus(2)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of(None) == device_of("cuda") == torch.device("cuda")
    for name in ("cuda:2", "cuda:9", "cuda:300"):
        with pytest.raises(UserError, match=f"'{name}', but PyTorch finds cuda:0 to cuda:1 here"):
            device_of(name)
    gpus(1)
    with pytest.raises(UserError, match="device is 'cuda:1', but PyTorch finds only cuda:0 here"):
        device_of("cuda:1", "device")

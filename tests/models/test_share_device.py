"""Which GPU is a process's own."""

from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from data.work_share import ALL_WORK, WorkShare
from models.share_device import share_device


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    found = [share_device("cuda", WorkShare(rank, 8, rank % 4, 4)) for rank in range(8)]
    assert [device.index for device in found] == [0, 1, 2, 3] * 2
    assert share_device("cuda:3", WorkShare(1, 8, 1, 4)).index == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert share_device("cuda", WorkShare(5, 8, 1, 4)).index == 0, "its scheduler shows it but one"


def test_the_cpu_is_shared_and_what_is_not_there_is_refused(monkeypatch):
    assert share_device("cpu", WorkShare(1, 2)) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="PyTorch finds no CUDA GPU here"):
        share_device("cuda", ALL_WORK)
    with pytest.raises(UserError, match="--device is 'gpu', expected cpu, cuda or cuda:N"):
        share_device("gpu", ALL_WORK)

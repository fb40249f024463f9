from __future__ import annotations

import pytest

from configs.errors import UserError
from train.ranks import Ranks, _own_gpu


def fail() -> None:
    raise UserError("no")


def test_a_lone_rank_needs_nobody() -> None:
    ranks = Ranks()
    assert ranks.maximum([1.0, -2.0]) == [1.0, -2.0] and ranks.mean([0.1]) == [0.1]
    assert ranks.gather("x") == ["x"] and ranks.on_first(lambda: 3) == 3
    with pytest.raises(UserError, match="^no$"):
        ranks.on_first(fail)


@pytest.mark.parametrize(("local_rank", "num_visible", "index"), [(3, 8, 3), (3, 1, 0), (0, 1, 0)])
def test_a_process_takes_its_own_gpu(local_rank: int, num_visible: int, index: int) -> None:
    """With one GPU visible a process, as schedulers bind them, the local rank is not an index."""
    assert _own_gpu(local_rank, num_visible) == index


def test_more_processes_than_gpus_is_a_mistake() -> None:
    with pytest.raises(UserError, match="process 4 of this node has no GPU: 4 are visible"):
        _own_gpu(4, 4)

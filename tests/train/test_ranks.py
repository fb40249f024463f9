from __future__ import annotations

import pytest

from configs.errors import UserError
from train.ranks import Ranks


def fail() -> None:
    raise UserError("no")


def test_a_lone_rank_needs_nobody() -> None:
    ranks = Ranks()
    assert ranks.maximum([1.0, -2.0]) == [1.0, -2.0] and ranks.mean([0.1]) == [0.1]
    assert ranks.gather("x") == ["x"] and ranks.on_first(lambda: 3) == 3
    with pytest.raises(UserError, match="^no$"):
        ranks.on_first(fail)

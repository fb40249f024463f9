from __future__ import annotations

import json

import pytest

from eval.scores.measured import NotAvailable, from_json, mean, num_available, to_json


def test_json_rounds_and_keeps_reasons():
    value = {"a": [1.23456, NotAvailable("no weights"), None], "b": -0.00001, "c": (2, "x", True)}
    found = to_json(value)
    assert found == {
        "a": [1.2346, {"not_available": "no weights"}, None],
        "b": 0.0,
        "c": [2, "x", True],
    }
    assert str(found["b"]) == "0.0"
    assert json.loads(json.dumps(found)) == found
    assert to_json(0.0012345, digits=6) == 0.001234 and to_json({7: 1.0}) == {"7": 1.0}


def test_json_comes_back_as_it_went():
    value = {"a": [1.5, NotAvailable("why")], "b": {"c": NotAvailable("because")}, "d": None}
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, -float("inf")]])
def test_what_is_no_number_is_never_written_as_one(value):
    with pytest.raises(ValueError, match="not a measurement"):
        to_json(value)
    with pytest.raises(TypeError):
        to_json({1, 2})


def test_mean_is_of_the_numbers_alone():
    values = [1.0, NotAvailable("first"), 4.0, NotAvailable("second")]
    assert mean(values) == 2.5 and num_available(values) == 2
    assert mean(values[1::2]) == NotAvailable("first")
    assert mean([0.0, NotAvailable("first")]) == 0.0
    assert isinstance(mean([]), NotAvailable)

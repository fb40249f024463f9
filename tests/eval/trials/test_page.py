"""A trial's page: claims with their verdicts, what was left out, and the numbers beside it."""

from __future__ import annotations

import json

from eval.trials.claims import print_claims, unmeasured, verdict
from eval.trials.page import claims_section, left_out_section, table, write_page

CLAIMS = [verdict("it falls", "9 of 9", True), verdict("it stays", "0 of 9", False)]


def test_verdicts_are_said_in_words(capsys) -> None:
    claims = [*CLAIMS, unmeasured("it flies")]
    text = claims_section(claims)
    assert "| it falls | 9 of 9 | holds |" in text
    assert "| it stays | 0 of 9 | **fails** |" in text
    assert "| it flies | not tried | not measured |" in text
    print_claims(claims)
    assert "FAILS  it stays: 0 of 9" in capsys.readouterr().out


def test_what_is_left_out_is_named() -> None:
    assert left_out_section({"captures_left_out": [], "failed": {}}) == ""
    text = left_out_section({"captures_left_out": ["beach"], "failed": {"clip 1": "too short"}})
    assert "- beach: no such folder here\n- clip 1: too short\n" in text


def test_a_table_has_a_line_a_row() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_the_page_and_its_numbers_lie_side_by_side(tmp_path) -> None:
    report = tmp_path / "pages/it.md"
    write_page(tmp_path, report, "# It\n", {"claims": CLAIMS, "environment": {"host": "x"}})
    assert report.read_text() == (tmp_path / "report.md").read_text() == "# It\n"
    assert json.loads(report.with_suffix(".json").read_text()) == {"claims": CLAIMS}
    write_page(tmp_path, None, "# Again\n", {})
    assert report.read_text() == "# It\n"

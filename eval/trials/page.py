"""Parts of a trial's Markdown page, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.durable_files import disk_errors_explained, write_durably

VERDICTS = {True: "holds", False: "**fails**", None: "not measured"}


def making(summary: dict[str, Any]) -> str:
    """When and on what the numbers were made."""
    environment, threads = summary["environment"], summary["config"]["threads"]
    return (
        f"Made on {environment['time'][:10]} with {threads} thread(s) of"
        f" {environment['machine']['processor']}; torch {environment['packages'].get('torch')}.\n"
    )


def claims_section(claims: Sequence[dict[str, Any]]) -> str:
    """What is claimed and what was found."""
    rows = [(row["claim"], row["found"], VERDICTS[row["holds"]]) for row in claims]
    return "## What is claimed, and what was found\n\n" + table(("claim", "found", ""), rows)


def left_out_section(summary: dict[str, Any]) -> str:
    """Captures that are not here, and cases that failed; empty where there are none."""
    lines = [f"- {name}: no such folder here" for name in summary.get("captures_left_out", [])] + [
        f"- {source}: {why}" for source, why in summary.get("failed", {}).items()
    ]
    return "## Left out\n\n" + "\n".join(lines) + "\n" if lines else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def write_page(folder: Path, report: Path | None, text: str, summary: dict[str, Any]) -> None:
    """Writes `report.md` into the folder, and the page and its numbers as JSON to `report`, where one is named."""
    write_durably(folder / "report.md", text.encode())
    if report is None:
        return
    numbers = {key: value for key, value in summary.items() if key != "environment"}
    content = (json.dumps(numbers, indent=1) + "\n").encode()
    with disk_errors_explained(report.parent, len(content)):
        report.parent.mkdir(parents=True, exist_ok=True)
    write_durably(report, text.encode())
    write_durably(report.with_suffix(".json"), content)

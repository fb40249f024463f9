"""What every page of scores ends with: what could not be scored, and how the rest was made."""

from __future__ import annotations

import json
from typing import Any

from eval.pages.html_report import Report


def add_failed(report: Report, summary: dict[str, Any], what: str = "Clips") -> None:
    """The rows that have an error, if there are any, and why."""
    if summary["failed"]:
        report.section(f"{what} that could not be scored")
        report.explanations(summary["failed"])


def add_making(report: Report, summary: dict[str, Any], noun: str = "clip") -> None:
    """Seconds of each stage, memory, settings, versions and hashes."""
    report.section("How it was made")
    report.table(
        ["stage", f"seconds a {noun}"],
        [[name, f"{value:.2f}"] for name, value in summary[f"seconds_per_{noun}"].items()],
    )
    if (peak_mib := summary["peak_memory_mib"]) is not None:
        report.note(f"Peak memory of a process: {peak_mib:,} MiB.")
    made_of = {key: summary[key] for key in ("identity", "config", "environment")}
    report.details("Settings, versions and hashes", json.dumps(made_of, indent=1))

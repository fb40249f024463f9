"""The clips' means as rows, on the terminal and in the page, with the reasons for what is not available."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.clips.groups import GROUPS
from eval.clips.labels import NOT_AVAILABLE, TITLES, label, number
from eval.clips.summary import mean_of
from eval.scores.measured import KEY

if TYPE_CHECKING:
    from rich.console import Console

MOST_SAID = 12
"""Of longer lists of remarks the rest is counted."""
Groups = Mapping[str, dict[str, Any]]
"""The means of each group by its name, as `summarise_groups` gives them."""


def group_rows(
    group: dict[str, Any], beside: Sequence[dict[str, Any] | None] = ()
) -> list[list[str]]:
    """Rows of one group's means: what it is, the value, those of the groups `beside`, and of how many clips."""
    rows = []
    for metric, entry in group.items():
        if metric in ("left_out", "clips", KEY):
            continue
        values = [number(mean_of(one, metric), metric) for one in (group, *beside)]
        rows.append([label(metric), *values, "" if KEY in entry else str(entry["clips"])])
    return rows


def set_rows(sets: dict[str, Any]) -> list[list[str]]:
    """Rows of the measures over all clips: value, samples, and what to know about them."""
    rows = []
    for name, entry in sets.items():
        if KEY in entry:
            rows.append([label(name), NOT_AVAILABLE, "", ""])
        else:
            value = number(entry["value"], name)
            rows.append([label(name), value, str(entry["samples"]), entry.get("note", "")])
    return rows


def reasons(summary: dict[str, Any]) -> dict[str, str]:
    """Why each metric that is not available is not, by group and name; metrics with one reason share a line."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for name in (*GROUPS, "sets"):
        group = summary.get(name, {})
        if KEY in group:
            continue
        for metric, entry in group.items():
            if isinstance(entry, dict) and KEY in entry:
                found.setdefault(entry[KEY], {}).setdefault(name, {})[label(metric)] = None
    return {
        "; ".join(f"{name}: {', '.join(metrics)}" for name, metrics in groups.items()): why
        for why, groups in found.items()
    }


def shortened(sentences: Sequence[str]) -> Iterator[str]:
    """The first of them, and how many more there are."""
    yield from sentences[:MOST_SAID]
    if (more := len(sentences) - MOST_SAID) > 0:
        yield f"and {more} more, in clips.jsonl"


def print_groups(console: Console, summary: dict[str, Any], beside: Mapping[str, Groups]) -> None:
    """A table for each group that was measured, and the reasons for what is not available.

    beside: further columns by their heading.
    """
    from rich.table import Table

    for name in GROUPS:
        if name not in summary:
            continue
        group = summary[name]
        if KEY in group:
            console.print(f"{TITLES[name]}: {NOT_AVAILABLE}: {group[KEY]}", soft_wrap=True)
            continue
        others = {heading: groups[name] for heading, groups in beside.items() if name in groups}
        table = Table("", "mean", *others, "clips", title=TITLES[name], title_justify="left")
        for row in group_rows(group, list(others.values())):
            table.add_row(*row)
        console.print(table)
    for what, why in reasons(summary).items():
        console.print(f"{NOT_AVAILABLE}: {what}: {why}", soft_wrap=True, highlight=False)
    for note in shortened(summary.get("notes", [])):
        console.print(f"note: {note}", soft_wrap=True, highlight=False)


def print_scores(summary: dict[str, Any]) -> None:
    """The means on the terminal, those over all clips first."""
    from rich.console import Console

    console = Console()
    print_sets(console, summary)
    print_groups(console, summary, {})


def print_sets(console: Console, summary: dict[str, Any]) -> None:
    """The measures over all clips, where there are any."""
    from rich.table import Table

    if "sets" in summary:
        table = Table("", "value", title="Over all clips", title_justify="left")
        for row in set_rows(summary["sets"]):
            table.add_row(*row[:2])
        console.print(table)

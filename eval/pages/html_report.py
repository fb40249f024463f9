"""One self-contained HTML page: numbers, charts, pictures, video and the 3D viewer.

A `Report` is filled from top to bottom and written once. Nothing is loaded from outside; all text
is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from jaxtyping import Float
from torch import Tensor

from data.durable_files import write_durably
from eval.pages.line_chart import LineChart
from eval.pages.pictures import png_bytes, png_width

TEMPLATE = Path(__file__).with_name("report_template.html")


class Report:
    """A page in the making.

    title, lead: the heading, and one sentence under it that says what the page shows.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.lead = lead
        self._blocks: list[str] = []

    def section(self, heading: str, text: str = "") -> None:
        """A heading with an optional paragraph under it."""
        self._blocks.append(f"<h2>{escape(heading)}</h2>")
        if text:
            self._blocks.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        """A small grey paragraph."""
        self._blocks.append(f'<p class="note">{escape(text)}</p>')

    def tiles(self, values: Sequence[tuple[str, str]]) -> None:
        """A row of cards, each a large value over its small label."""
        cards = "".join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
            for value, label in values
        )
        self._blocks.append(f'<div class="tiles">{cards}</div>')

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], ours: str | None = None
    ) -> None:
        """A table; the row whose first cell is `ours` is highlighted."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        lines = []
        for row in rows:
            assert len(row) == len(header)
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
            lines.append(
                f'<tr class="ours">{cells}</tr>' if row[0] == ours else f"<tr>{cells}</tr>"
            )
        self._blocks.append(
            f'<div class="card"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
        )

    def explanations(self, rows: Mapping[str, str]) -> None:
        """Names with a sentence each, which may be long."""
        lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())
        self._blocks.append(f'<div class="card"><dl>{lines}</dl></div>')

    def bars(
        self,
        groups: Mapping[str, Mapping[str, float | None]],
        ours: str,
        unit: str = "",
        floor: float = 0.0,
    ) -> None:
        """Horizontal bars, a chart a group, on one scale from `floor` up; None leaves a bar out."""
        values = [v for group in groups.values() for v in group.values() if v is not None]
        if not values:
            return
        top = max(max(values), floor + 1e-9)
        charts = []
        for heading, group in groups.items():
            lines = [f"<h3>{escape(heading)}</h3>"]
            for name, value in group.items():
                if value is None:
                    continue
                share = 100 * max(0.0, value - floor) / (top - floor)
                lines.append(
                    f'<div class="bar{" ours" if name == ours else ""}"><span>{escape(name)}</span>'
                    f'<span><i style="width:{share:.1f}%"></i></span>'
                    f"<span>{value:.2f}{escape(unit)}</span></div>"
                )
            charts.append(f"<div>{''.join(lines)}</div>")
        self._blocks.append(f'<div class="card"><div class="bars">{"".join(charts)}</div></div>')

    def charts(self, charts: Sequence[LineChart]) -> None:
        """Line charts, side by side where there is room."""
        cells = "".join(f"<div>{chart.html()}</div>" for chart in charts)
        self._blocks.append(f'<div class="card"><div class="charts">{cells}</div></div>')

    def pictures(
        self,
        rows: Sequence[Sequence[Float[Tensor, "3 h w"]]],
        row_labels: Sequence[str],
        column_labels: Sequence[str],
    ) -> None:
        """A grid of images in [0, 1] with labels at the left and above, scaled to the page."""
        cells = ["<span></span>"]
        cells += [f'<span class="head">{escape(label)}</span>' for label in column_labels]
        for label, images in zip(row_labels, rows, strict=True):
            assert len(images) == len(column_labels)
            cells.append(f'<span class="name">{escape(label)}</span>')
            for image, column in zip(images, column_labels, strict=True):
                cells.append(f'<img alt="{escape(f"{label}, {column}")}" src="{_png_uri(image)}">')
        columns = f"grid-template-columns: 92px repeat({len(column_labels)}, 1fr)"
        self._blocks.append(
            f'<div class="card"><div class="pictures" style="{columns}">'
            f"{''.join(cells)}</div></div>"
        )

    def compare(
        self,
        left: Float[Tensor, "3 h w"],
        right: Float[Tensor, "3 h w"],
        labels: tuple[str, str],
        caption: str,
    ) -> None:
        """Two images of one view under a slider."""
        self._blocks.append(
            f'<figure><div class="compare"><img alt="{escape(labels[0])}" src="{_png_uri(left)}">'
            f'<img alt="{escape(labels[1])}" src="{_png_uri(right)}">'
            f'<span class="left">{escape(labels[0])}</span>'
            f'<span class="right">{escape(labels[1])}</span>'
            '<input type="range" min="0" max="100" value="50" aria-label="compare"></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def image(self, path: Path, caption: str, enlarge: bool = True) -> None:
        """A PNG file, inline. enlarge: to the page's width; otherwise it has at most its own."""
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        style = "" if enlarge else f' style="max-width: {png_width(path)}px"'
        self._blocks.append(
            f'<figure><img alt="{escape(caption)}"{style} src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def video(self, path: Path, caption: str) -> None:
        """An MP4 file, inline, looping."""
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        self._blocks.append(
            "<figure><video controls autoplay loop muted playsinline"
            f' src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def viewer(self, path: Path, caption: str) -> None:
        """A self-contained viewer page, carried inside and started by a button."""
        name = f"viewer-{len(self._blocks)}"
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        self._blocks.append(
            f'<script type="text/plain" id="{name}">{data}</script>'
            f'<figure><button data-viewer="{name}">Walk through the scene</button>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def links(self, files: Mapping[str, str]) -> None:
        """Links to files beside the page: relative path to what it is."""
        items = " · ".join(
            f'<a href="{escape(path)}">{escape(path)}</a> ({escape(what)})'
            for path, what in files.items()
        )
        self._blocks.append(f"<p>{items}</p>")

    def details(self, summary: str, text: str) -> None:
        """Preformatted text that is folded away until clicked."""
        self._blocks.append(
            f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
        )

    def html(self) -> str:
        """The page."""
        return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=escape(self.title), lead=escape(self.lead), body="\n".join(self._blocks)
        )

    def write(self, path: Path) -> None:
        """Writes the page in one step; raises UserError where the disk is full or not writable."""
        write_durably(path, self.html().encode())


def _png_uri(image: Float[Tensor, "3 h w"]) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")

"""The report is one file that loads nothing, and escapes what it is given."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import torch

from eval.pages.html_report import Report
from eval.pages.line_chart import Line, LineChart
from eval.pages.pictures import png_bytes

IMAGE = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))


def full_report(tmp_path) -> Report:
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x01video")
    (tmp_path / "viewer.html").write_text("<html><script>let a = '</script>'</script>é</html>")
    report = Report("Title & <b>", "what it shows")
    report.section("Numbers", "text with <tags>")
    report.tiles([("24.1 dB", "PSNR")])
    report.table(["method", "near"], [["LaLRM", "24"], ["copy", "18"]], ours="LaLRM")
    report.explanations({"LPIPS": "its weights <are> not here"})
    report.bars({"near": {"LaLRM": 24.0, "copy": 18.0, "fit": None}}, "LaLRM", " dB", floor=10.0)
    report.charts([LineChart("by <frame>", "frame", "dB", [Line("a & b", [1.0, None, 2.0])])])
    report.pictures([[IMAGE, IMAGE]], ["truth"], ["a", "b"])
    report.compare(IMAGE, IMAGE, ("truth", "render"), "one view")
    report.video(tmp_path / "clip.mp4", "along the path")
    report.viewer(tmp_path / "viewer.html", "the scene")
    (tmp_path / "grid.png").write_bytes(png_bytes(IMAGE))
    report.image(tmp_path / "grid.png", "a grid")
    report.image(tmp_path / "grid.png", "a small grid", enlarge=False)
    report.links({"scene.ply": "the Gaussians"})
    report.details("settings", "a: <1>")
    report.note("small print")
    return report


def test_page_is_well_formed_and_loads_nothing_from_outside(tmp_path):
    page = full_report(tmp_path).html()
    open_tags: list[str] = []
    loaded: list[str] = []
    void = {"meta", "img", "input"}

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in void:
                open_tags.append(tag)
            loaded.extend(v for k, v in attributes if k == "src" and v)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []
    assert loaded and all(source.startswith("data:") for source in loaded)
    assert not re.search(r"https?://", page)


def test_text_is_escaped(tmp_path):
    page = full_report(tmp_path).html()
    assert "Title &amp; &lt;b&gt;" in page and "&lt;tags&gt;" in page and "a: &lt;1&gt;" in page
    assert page.count('style="max-width: 12px" src="data:image/png') == 1
    assert "<dd>its weights &lt;are&gt; not here</dd>" in page


def test_bars_share_one_scale_and_leave_missing_values_out(tmp_path):
    page = full_report(tmp_path).html()
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", page)]
    assert widths == [100.0, 57.1]
    assert ">fit<" not in page


def test_our_row_is_highlighted(tmp_path):
    page = full_report(tmp_path).html()
    assert '<tr class="ours"><td>LaLRM</td>' in page and "<tr><td>copy</td>" in page


def test_write_leaves_one_whole_file(tmp_path):
    report = Report("title", "lead")
    report.write(tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == report.html()

"""An output folder that is made again, beside what others write."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from eval.replaced_folder import replaced_folder

FILES = ("scene.ply", "data/a.json")


def test_only_the_folder_itself_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for name in ("demo", "demo.old", "demo.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scene.ply").write_text("before")
    with replaced_folder(out, FILES) as folder:
        (folder / "scene.ply").write_text("after")
    texts = {path.name: (path / "scene.ply").read_text() for path in tmp_path.iterdir()}
    assert texts == {"demo": "after", "demo.old": "before", "demo.tmp": "before"}


def test_two_runs_leave_each_others_work_alone(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    second = replaced_folder(out, FILES)
    slow = second.__enter__()
    (slow / "scene.ply").write_text("second")
    with replaced_folder(out, FILES) as folder:
        (folder / "scene.ply").write_text("first")
    assert (slow / "scene.ply").exists() and (out / "scene.ply").read_text() == "first"
    second.__exit__(None, None, None)
    assert (out / "scene.ply").read_text() == "second"
    assert list(tmp_path.iterdir()) == [out]


def test_what_somebody_put_there_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    filling = replaced_folder(out, FILES)
    filling.__enter__()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        filling.__exit__(None, None, None)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]

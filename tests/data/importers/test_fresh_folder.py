"""Output folders that appear whole, beside what others write."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from data.importers.fresh_folder import fresh_folder


def test_what_lies_beside_the_folder_is_left_alone(tmp_path: Path) -> None:
    backup = tmp_path / "scene.tmp" / "thesis.txt"
    backup.parent.mkdir()
    backup.write_text("mine")
    with fresh_folder(tmp_path / "scene", 0) as folder:
        (folder / "a").touch()
    with pytest.raises(RuntimeError, match="broken"), fresh_folder(tmp_path / "other", 0):
        raise RuntimeError("broken in the middle")
    assert backup.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene", "scene.tmp"]
    assert [path.name for path in (tmp_path / "scene").iterdir()] == ["a"]


def test_two_runs_with_one_folder_keep_what_both_made(tmp_path: Path) -> None:
    out = tmp_path / "scene"
    second = fresh_folder(out, 0)
    slow = second.__enter__()
    (slow / "second").touch()
    with fresh_folder(out, 0) as folder:
        (folder / "first").touch()
    with pytest.raises(UserError, match="was filled by another run meanwhile") as told:
        second.__exit__(None, None, None)
    assert [path.name for path in out.iterdir()] == ["first"]
    assert (slow / "second").exists() and str(slow) in str(told.value)

"""Output folders of commands that take long: whose they are, and what may be continued."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from eval.unfinished_folder import PREVIEW, REQUEST, STATE, UNFINISHED, UnfinishedFolder, request_of


def finish(folder: UnfinishedFolder, text: str) -> None:
    folder.open()
    folder.save({"x": torch.ones(2)}, b"png")
    with folder.filling() as target:
        (target / "result").write_text(text)


def test_results_take_the_place_of_the_unfinished_run(tmp_path):
    out = tmp_path / "out"
    folder = UnfinishedFolder(out, {"faces": "1"})
    assert folder.load_state() is None and not out.exists()
    folder.open()
    folder.save({"x": torch.arange(3)}, b"png")
    assert (out / PREVIEW).read_bytes() == b"png"
    again = UnfinishedFolder(out, {"faces": "1"})
    state = again.load_state()
    assert state is not None and state["x"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="other settings: faces is not the same"):
        UnfinishedFolder(out, {"faces": "2"})
    finish(again, "done")
    assert [path.name for path in out.iterdir()] == ["result"]


def test_what_another_run_finished_meanwhile_stays(tmp_path):
    out = tmp_path / "out"
    first, second = (UnfinishedFolder(out, {"faces": faces}) for faces in "12")
    finish(first, "first")
    with pytest.raises(UserError, match=r"exists.*--out"):
        finish(second, "second")
    assert (out / "result").read_text() == "first" and len(list(out.iterdir())) == 1


@pytest.mark.parametrize("name", ["unfinished/mine.txt", "notes.txt"])
def test_a_folder_of_someone_elses_is_refused(tmp_path, name):
    file = tmp_path / "art" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=r"art exists.*--out"):
        UnfinishedFolder(tmp_path / "art", {})
    with pytest.raises(UserError, match="exists"):
        UnfinishedFolder(file, {})
    assert file.read_text() == "mine"


def test_a_run_that_saved_nothing_yet_may_be_started_otherwise(tmp_path):
    out = tmp_path / "out"
    UnfinishedFolder(out, {"rate": "1"}).open()
    finish(UnfinishedFolder(out, {"rate": "2"}), "done")
    assert (out / "result").read_text() == "done"


def test_a_damaged_state_is_told(tmp_path):
    folder = UnfinishedFolder(tmp_path / "out", {})
    folder.open()
    folder.save({"x": torch.ones(2)}, b"png")
    state = tmp_path / "out" / UNFINISHED / STATE
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="is damaged; remove"):
        folder.load_state()
    (tmp_path / "out" / UNFINISHED / REQUEST).write_text("{")
    with pytest.raises(UserError, match=r"request\.json is damaged"):
        UnfinishedFolder(tmp_path / "out", {})


def test_where_it_computes_may_change_and_what_files_hold_may_not(tmp_path):
    image = tmp_path / "photo.png"
    image.write_bytes(b"1")

    def asked(**changes: object) -> dict[str, str]:
        args = argparse.Namespace(seed=0, device="cpu", one_by_one=False, dtype=None, out=Path("a"))
        vars(args).update(changes)
        return request_of(args, {"image": image, "video": None, "cameras": tmp_path / "none"})

    before = asked()
    assert asked(device="cuda", one_by_one=True, dtype="bfloat16", out=Path("b")) == before
    assert asked(seed=1) != before and set(before) == {"seed", "content of image"}
    image.write_bytes(b"2")
    assert asked() != before

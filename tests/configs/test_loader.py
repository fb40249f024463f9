from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from configs.errors import UserError
from configs.loader import Config, dump_config, load_config, load_config_by_kind


class AdamW(Config):
    kind: Literal["adamw"]
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Muon(Config):
    kind: Literal["muon"]
    lr: float
    momentum: float = 0.95


class Stage(Config):
    steps: int
    name: str | None = None
    size: tuple[int, int] = (64, 96)


class Recipe(Config):
    width: int
    optimizer: Annotated[AdamW | Muon, Field(discriminator="kind")] = AdamW(kind="adamw")
    stages: tuple[Stage, ...] = ()
    speed: Literal["fast", "slow"] = "fast"
    shuffle: bool = False
    note: str = ""
    folder: Path = Path("runs")
    weights: dict[str, float] = {}
    crop: int | tuple[int, ...] | None = None


@pytest.fixture
def load(tmp_path):
    """Loads a recipe given as text; returns the config, or raises UserError."""

    def load_text(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_config(path, overrides, Recipe)

    return load_text


@pytest.fixture
def complain(load, tmp_path):
    """The message about a recipe, one mistake an item, with the folder taken out."""

    def message_lines(text: str, *overrides: str) -> list[str]:
        with pytest.raises(UserError) as caught:
            load(text, *overrides)
        lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
        return (
            [line.strip() for line in lines] if len(lines) == 1 else [s.strip() for s in lines[1:]]
        )

    return message_lines


def test_a_recipe_and_its_overrides_become_one_tree(load):
    recipe = load(
        "width: 32\nstages:\n- {steps: 10}\n- {steps: 20, name: late}\n",
        "width=64",
        "stages.1.size=[128, 192]",
        "stages.0.name=early",
        "optimizer.kind=muon",
        "optimizer.lr=2e-2",
        "weights.depth=1",
        "folder=elsewhere",
    )
    assert recipe == Recipe(
        width=64,
        stages=(Stage(steps=10, name="early"), Stage(steps=20, name="late", size=(128, 192))),
        optimizer=Muon(kind="muon", lr=0.02),
        weights={"depth": 1.0},
        folder=Path("elsewhere"),
    )


def test_an_empty_recipe_may_be_filled_by_overrides(load):
    assert load("", "width=8").width == 8
    assert load("# only a comment\n", "width=8").width == 8


def test_the_last_override_wins_and_a_mapping_replaces_a_mapping(load):
    recipe = load("width: 1\nweights: {a: 1, b: 2}", "width=2", "width=3", "weights={c: 3}")
    assert (recipe.width, recipe.weights) == (3, {"c": 3.0})


def test_scalars_follow_yaml_1_2_where_1_1_would_surprise(load):
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}  # the trap
    for text, value in {
        "1e-4": 1e-4,
        "-2E+3": -2000.0,
        "1_000.5": 1000.5,
        ".5": 0.5,
        "7": 7.0,
    }.items():
        assert load(f"width: 1\nweights: {{lr: {text}}}").weights["lr"] == value
    assert load("width: 010").width == 10
    assert load("width: 0x1F").width == 31
    assert load("width: 200_000").width == 200_000
    for text in ("on", "off", "yes", "no", "2024-01-01", "1:30", "1e-4x", "0o17"):
        assert load(f"width: 1\nnote: {text}").note == text
    assert load("width: 1\nshuffle: TRUE").shuffle is True


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("widht: 3", [], "recipe.yaml:1: widht: unknown key; the nearest valid key is width"),
        ("", [], "recipe.yaml: width: missing, expected a whole number"),
        ("width: wide", [], "recipe.yaml:1: width: found 'wide', expected a whole number"),
        ("width: 1.5", [], "recipe.yaml:1: width: found 1.5, expected a whole number"),
        ("width: '3'", [], "recipe.yaml:1: width: found '3', expected a whole number"),
        ("width: true", [], "recipe.yaml:1: width: found true, expected a whole number"),
        ("width:", [], "recipe.yaml:1: width: found null, expected a whole number"),
        ("width: 1\nnote: 3", [], "recipe.yaml:2: note: found 3, expected text"),
        (
            "width: 1\nshuffle: yes",
            [],
            "recipe.yaml:2: shuffle: found 'yes', expected true or false",
        ),
        (
            "width: 1\nspeed: fats",
            [],
            "recipe.yaml:2: speed: found 'fats', expected 'fast' or 'slow'; the nearest is 'fast'",
        ),
        (
            "width: 1\nstages: {steps: 1}",
            [],
            "recipe.yaml:2: stages: found a mapping with the keys steps, expected a list",
        ),
        (
            "width: 1\nstages:\n- steps: 1\n- 3",
            [],
            "recipe.yaml:4: stages.1: found 3, expected a mapping of keys to values",
        ),
        (
            "width: 1\nstages:\n- steps: 1\n  nam: x",
            [],
            "recipe.yaml:4: stages.0.nam: unknown key; the nearest valid key is stages.0.name",
        ),
        (
            "width: 1\nstages:\n- steps: 1\n  size: [1]",
            [],
            "recipe.yaml:4: stages.0.size.1: missing, expected a whole number",
        ),
        (
            "width: 1\nqqqq: 1",
            [],
            "recipe.yaml:2: qqqq: unknown key; valid keys here: width, optimizer, stages, speed, "
            "shuffle, note, folder, weights, crop",
        ),
        (
            "width: 1\nlr: 1e-3",
            [],
            "recipe.yaml:2: lr: unknown key; the nearest valid key is optimizer.lr",
        ),
        (
            "width: 1\noptimizer: {kind: adamw, lr: .nan}",
            [],
            "recipe.yaml:2: optimizer.lr: found nan, expected a finite number",
        ),
        (
            "width: 1",
            ["weights.depth=-.inf"],
            "override 'weights.depth=-.inf': weights.depth: found -inf, expected a finite number",
        ),
        (
            "width: 1\noptimizer:\n  kind: muon\n",
            ["optimizer.momentun=1"],
            "recipe.yaml:2: optimizer.lr: missing, expected a number",
        ),
        (
            "width: 1\noptimizer: {kind: adam}",
            [],
            "recipe.yaml:2: optimizer.kind: found 'adam', expected 'adamw', 'muon'; "
            "the nearest is 'adamw'",
        ),
        (
            "width: 1",
            ["optimizer.lr=1"],
            "override 'optimizer.lr=1': optimizer.kind: missing, expected one of adamw, muon",
        ),
        (
            "width: 1",
            ["widht=3"],
            "override 'widht=3': widht: unknown key; the nearest valid key is width",
        ),
        ("width: 1", ["width"], "override 'width': expected key=value, such as train.lr=1e-4"),
        ("width: 1", ["=3"], "override '=3': expected key=value, such as train.lr=1e-4"),
        ("width: 1", ["a..b=3"], "override 'a..b=3': expected key=value, such as train.lr=1e-4"),
        (
            "width: 1",
            ["--width=3"],
            "override '--width=3': expected key=value without dashes, such as width=3",
        ),
        (
            "width: 1",
            ["width=[1"],
            "override 'width=[1': width: not valid YAML: while parsing a flow sequence, "
            "expected ',' or ']', but got '<stream end>' (column 3)",
        ),
        (
            "width: 1",
            ["width.x=1"],
            "override 'width.x=1': width.x: width is 1, not a mapping",
        ),
        (
            "width: 1\nstages: [{steps: 1}]",
            ["stages.3.steps=1"],
            "override 'stages.3.steps=1': stages is a list of 1: "
            "expected an index below 1, found '3'",
        ),
        (
            "width: 1\nwidth: 2",
            [],
            "recipe.yaml:2: width: the key stands twice, first on line 1",
        ),
        (
            "width: 1\nstages:\n- {steps: 1, steps: 2}",
            [],
            "recipe.yaml:3: stages.0.steps: the key stands twice, first on line 3",
        ),
        (
            "- width: 1",
            [],
            "recipe.yaml: found [{'width': 1}], expected a mapping of keys to values",
        ),
        (
            "width: [1, 2",
            [],
            "recipe.yaml:1: not valid YAML: while parsing a flow sequence, "
            "expected ',' or ']', but got '<stream end>' (column 13)",
        ),
        (
            "width: 1\nnote: !!python/name:os.system x",
            [],
            "recipe.yaml:2: note: the tag tag:yaml.org,2002:python/name:os.system is not supported",
        ),
        (
            "width: !!int x",
            [],
            "recipe.yaml:1: width: 'x' does not fit its tag tag:yaml.org,2002:int",
        ),
        (
            "width: 1\n? [a]\n: 2",
            [],
            "recipe.yaml:2: a key must be a plain name, not a list or mapping",
        ),
        ("width: 1\nstages: &a [*a]", [], "recipe.yaml:2: stages.0: an alias that contains itself"),
    ],
)
def test_a_mistake_is_told_where_it_is_and_what_was_expected(complain, text, overrides, expected):
    assert expected in complain(text, *overrides)


def test_every_mistake_comes_in_one_message(complain):
    lines = complain(
        "widht: 3\nspeed: fats\noptimizer: {kind: muon, lr: 1e-4, stepz: 1}\nspeed: slow\n",
        "stages=[{steps: x}]",
        "oops",
        "shuffle=1",
    )
    assert lines == [
        "recipe.yaml:4: speed: the key stands twice, first on line 2",
        "override 'oops': expected key=value, such as train.lr=1e-4",
        "recipe.yaml: width: missing, expected a whole number",
        "recipe.yaml:3: optimizer.stepz: unknown key; valid keys here: kind, lr, momentum",
        "override 'stages=[{steps: x}]': stages.0.steps: found 'x', expected a whole number",
        "recipe.yaml:2: speed: found 'fats', expected 'fast' or 'slow'; the nearest is 'fast'",
        "override 'shuffle=1': shuffle: found 1, expected true or false",
        "recipe.yaml:1: widht: unknown key; the nearest valid key is width",
    ]


def test_key_paths_hold_no_union_tag(complain):
    (line,) = complain("width: 1\noptimizer: {kind: adamw, betas: [0.9, x]}")
    assert line == "recipe.yaml:2: optimizer.betas.1: found 'x', expected a number"
    lines = complain("width: 1\ncrop: [a]")
    assert [line.split(": ")[1] for line in lines] == ["crop", "crop.0"]


def test_the_kind_chooses_among_schemas(tmp_path):
    path = tmp_path / "recipe.yaml"
    schemas = {"adamw": AdamW, "muon": Muon}
    path.write_text("kind: muon\nlr: 0.1\n")
    assert load_config_by_kind(path, [], schemas) == Muon(kind="muon", lr=0.1)
    assert load_config_by_kind(path, ["kind=adamw"], schemas) == AdamW(kind="adamw", lr=0.1)
    with pytest.raises(UserError, match=r"override 'momentun=1': momentun: unknown key"):
        load_config_by_kind(path, ["momentun=1"], schemas)
    for text, expected in (
        (
            "kind: mun\n",
            "recipe.yaml:1: kind: found 'mun', expected 'adamw' or 'muon'; the nearest",
        ),
        ("kind: [muon]\n", "recipe.yaml:1: kind: found ['muon'], expected"),
        ("lr: 0.1\n", "recipe.yaml: kind: missing, expected 'adamw' or 'muon'"),
        ("kind: muon: 3\n", "recipe.yaml:1"),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as error:
            load_config_by_kind(path, [], schemas)
        assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_a_bad_override_come_together(tmp_path):
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "none.yaml", ["oops", "width=1"], Recipe)
    assert "none.yaml: cannot read the recipe: No such file or directory" in str(caught.value)
    assert "override 'oops'" in str(caught.value)
    assert "width" not in str(caught.value)  # what the file would have held is not known


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        load_config(path, [], Recipe)


def test_aliases_that_unfold_without_end_are_refused(complain):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert any("more than 20000 values" in line for line in complain(bomb))


def test_deep_nesting_is_a_mistake_and_not_a_crash(complain):
    assert any(
        "nested too deeply" in line for line in complain("width: " + "[" * 5000 + "]" * 5000)
    )


def test_configs_are_frozen_and_hashable():
    recipe = Recipe(width=1, weights={})
    with pytest.raises(ValidationError):
        recipe.width = 2  # type: ignore[misc]
    assert len({Stage(steps=1), Stage(steps=1), Stage(steps=2)}) == 2
    with pytest.raises(ValidationError):
        AdamW(kind="adamw", lr=math.nan)


def test_a_dumped_config_is_complete_and_reads_back_the_same(tmp_path):
    recipe = Recipe(
        width=1, stages=(Stage(steps=1, name="1e-4"),), note="yes", weights={"lr": 1e-10, "on": 3.0}
    )
    path = tmp_path / "run" / "config.yaml"
    dump_config(recipe, path)
    assert load_config(path, [], Recipe) == recipe
    assert set(yaml.safe_load(path.read_text())) == set(Recipe.model_fields)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]


@given(note=st.text(), number=st.floats(allow_nan=False, allow_infinity=False), key=st.text())
def test_any_text_and_any_number_survive_a_dump(tmp_path_factory, note, number, key):
    recipe = Recipe(width=1, note=note, weights={key: number})
    path = tmp_path_factory.getbasetemp() / "survive.yaml"
    dump_config(recipe, path)
    assert load_config(path, [], Recipe) == recipe


def test_a_config_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot write the configuration"):
        dump_config(Recipe(width=1), blocker / "config.yaml")
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UserError, match="cannot write the configuration"):
        dump_config(Recipe(width=1), tmp_path / "config.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "file"]

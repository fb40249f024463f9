"""The shape of the house: which package may import which, where heavy imports live, what files are called."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "data", "models", "train", "eval")  # each may import those to its left

# A heavy or optional package is imported inside a function, and only in these modules ("x.*": all of x).
HEAVY = {
    "deepspeed": ("train.deepspeed_engine",),
    "gsplat": ("models.rendering.gsplat_backend", "train.fitting.gsplat_density"),
    "xformers": ("models.attention",),
    "viser": ("eval.pages.viewer_html", "eval.pages.viewer_flight", "eval.view"),
    "lpips": ("models.perceptual",),
    "diffusers": ("models.*",),
    "transformers": ("models.*",),
}
TRIES_THEM_ALL = "eval.dependency_probe"

VAGUE = {"utils", "util", "misc", "helpers", "helper", "common"}


def modules() -> dict[str, Path]:
    """Every Python file of the five packages by its dotted name; __init__ files under theirs."""
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def imports(module: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module's dotted name, and whether it is imported as soon as the file is.

    Imports for type checkers alone count as not at once.
    """

    def visit(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, node.module] if node.module else base)
            if name in PACKAGES:  # `from train import loop` imports train.loop
                yield from ((f"{name}.{alias.name}", at_once) for alias in node.names)
            else:
                yield name, at_once
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_once)
        else:
            later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_once and not later)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


@functools.cache
def all_imports() -> list[tuple[str, str, bool]]:
    """(module, what it imports, whether at once) of the five packages."""
    return [
        (module, imported, at_once)
        for module, path in modules().items()
        for imported, at_once in imports(module, path)
    ]


def is_home(module: str, homes: tuple[str, ...]) -> bool:
    return any(
        module == home or (home.endswith("*") and module.startswith(home[:-1])) for home in homes
    )


def test_packages_import_only_to_their_left():
    wrong = [
        f"{module} imports {imported}"
        for module, imported, _ in all_imports()
        if (there := imported.split(".")[0]) in PACKAGES
        and PACKAGES.index(there) > PACKAGES.index(module.split(".")[0])
    ]
    assert wrong == []


def test_no_package_is_imported_by_its_bare_name():
    """`import eval` would hide the builtin, `import data` says nothing."""
    wrong = [module for module, imported, _ in all_imports() if imported in PACKAGES]
    assert wrong == []


def test_heavy_packages_are_imported_late_and_in_their_own_modules():
    wrong = [
        f"{module} imports {imported} {'at once' if at_once else 'although it is not its home'}"
        for module, imported, at_once in all_imports()
        if (package := imported.split(".")[0]) in HEAVY and module != TRIES_THEM_ALL
        if at_once or not is_home(module, HEAVY[package])
    ]
    assert wrong == []


def test_init_files_are_empty_and_every_folder_has_one():
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            init = folder / "__init__.py"
            assert init.exists(), f"{folder} has no __init__.py"
            assert init.read_text() == "", f"{init} is not empty"


def test_tests_are_not_a_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_test_files_mirror_the_packages():
    for folder in (path for path in (ROOT / "tests").rglob("*") if path.is_dir()):
        parts = folder.relative_to(ROOT / "tests").parts
        if parts[0] in PACKAGES and folder.name != "__pycache__" and any(folder.glob("test_*.py")):
            assert (ROOT.joinpath(*parts)).is_dir(), f"{folder} mirrors nothing"


def test_files_say_what_they_hold():
    taken = VAGUE | set(sys.stdlib_module_names)
    names = {part: module for module in modules() for part in module.split(".")[1:]}
    assert {part: module for part, module in names.items() if part in taken} == {}


def test_importing_one_module_does_not_import_in_a_circle():
    """No module is needed, at once, to import itself."""
    at_once: dict[str, set[str]] = {module: set() for module in modules()}
    for module, imported, now in all_imports():
        if now and imported in at_once:
            at_once[module].add(imported)

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(at_once[module])
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen.add(name)
                waiting += at_once[name]
        return seen

    assert [module for module in at_once if module in reached(module)] == []


def commands() -> list[str]:
    return [
        module
        for module, path in modules().items()
        if "run_command(main)" in (text := path.read_text()) and "ArgumentParser" in text
    ]


@pytest.mark.parametrize("module", commands())
def test_help_answers_without_loading_anything_heavy(module):
    code = f"""
import importlib, sys
main = importlib.import_module({module!r}).main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"torch", "numba", "pycolmap", "skimage", "scipy", *{list(HEAVY)}}} & set(sys.modules)
assert not heavy, heavy
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: ")


def test_the_walk_sees_what_it_looks_for(tmp_path):
    """The checks above can fail: imports at once, late, relative and for types are told apart."""
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import a.b\n"
        "try:\n    import c\nexcept ImportError:\n    pass\n"
        "if TYPE_CHECKING:\n    import d\n"
        "def f():\n    from e import g\n"
        "class H:\n    from . import i\n"
        "from ..j import k\n"
    )
    assert list(imports("data.importers.x", path)) == [
        ("typing", True),
        ("a.b", True),
        ("c", True),
        ("d", False),
        ("e", False),
        ("data.importers", True),
        ("data.j", True),
    ]

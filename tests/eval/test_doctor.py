from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from eval import doctor
from eval.dependency_probe import Answer, ask
from eval.doctor import Ability, Dependency, Diagnosis, check_package, declared_packages
from eval.machine import memory_gib, num_cores

ROOT = Path(doctor.__file__).resolve().parents[1]


def test_the_probe_survives_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "aborts_on_import.py").write_text("import os; print('noise'); os.abort()")
    (tmp_path / "raises_on_import.py").write_text("raise OSError('libfoo.so.7 is missing')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    answers = ask(["json", "raises_on_import", "aborts_on_import", "nowhere_to_be_found", "math"])
    assert answers == {
        "json": Answer("json", True, ""),
        "raises_on_import": Answer("raises_on_import", False, "OSError: libfoo.so.7 is missing"),
        "aborts_on_import": Answer("aborts_on_import", False, "crashed (signal 6)"),
        "nowhere_to_be_found": Answer(
            "nowhere_to_be_found",
            False,
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        "math": Answer("math", True, ""),
    }


def test_every_package_of_the_project_is_pinned_and_knows_its_module():
    pins = doctor.pinned_versions(ROOT / "constraints.txt")
    packages = dict(declared_packages(ROOT / "pyproject.toml"))
    assert set(packages.values()) == {"core", "gpu", "perceptual", "dev"}
    assert packages["torch"] == "core"
    assert packages["gsplat"] == "gpu"
    assert [name for name in packages if name.lower() not in pins] == []
    for name in packages:
        if doctor.installed_version(name) and (module := doctor.module_of(name)):
            assert importlib.util.find_spec(module), name


def test_a_limit_on_python_is_heeded(tmp_path):
    old, new = sys.version_info[1], sys.version_info[1] + 1
    (tmp_path / "pyproject.toml").write_text(
        "[project]\n"
        f"dependencies = [\"past>=1; python_version < '3.{old}'\","
        f" \"now>=2; python_version < '3.{new}'\"]\n"
        "[project.optional-dependencies]\ndev = ['now', 'tool~=3.0']\n"
    )
    found = list(declared_packages(tmp_path / "pyproject.toml"))
    assert found == [("now", "core"), ("tool", "dev")]


def test_the_state_of_a_package():
    version = metadata.version("numpy")
    works, fails = Answer("numpy", True, ""), Answer("numpy", False, "ImportError: no BLAS")

    def state(name: str, pin: str | None, answer: Answer | None) -> tuple[str, str]:
        package = check_package(name, "core", pin, answer)
        return package.status, package.problem

    assert state("numpy", version, works) == ("ok", "")
    assert state("numpy", "0.1", works) == ("other version", "")
    assert state("numpy", version, fails) == ("broken", "ImportError: no BLAS")
    assert state("no-such-package", "1.0", None) == ("missing", "")


@pytest.mark.parametrize(
    ("group", "status", "code"),
    [
        ("core", "ok", 0),
        ("core", "other version", 0),
        ("core", "missing", 2),
        ("core", "broken", 2),
        ("gpu", "missing", 0),
        ("dev", "broken", 0),
    ],
)
def test_only_a_core_dependency_makes_it_fail(monkeypatch, capsys, group, status, code):
    package = Dependency("foo", group, status, None, "1.0", "why")
    abilities = [Ability("bar", False, "not downloaded", "curl bar")]
    diagnosis = Diagnosis({"CPU": "2 cores"}, [package], abilities)
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
    assert doctor.main([]) == code
    text = capsys.readouterr().out
    assert "curl bar" in text
    cure = "-c constraints.txt foo==1.0"
    assert (cure in text) == (status != "ok" and group != "gpu")
    assert doctor.main(["--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] == (code == 0)
    assert report["dependencies"][0]["status"] == status


def test_weights_are_found_where_torch_puts_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    import torch

    assert doctor.hub_folder() == Path(torch.hub.get_dir())
    folder = doctor.hub_folder() / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()
    (folder / "i3d_torchscript.pt").touch()
    nothing = {f"can {name}": Answer(name, False, "") for name in NAMES}
    found = {a.name: a for a in doctor.abilities(nothing)}
    assert found["weights of LPIPS (vgg), perceptual loss"].available
    assert found["weights of FVD"].available
    absent = found["weights of LPIPS (alex)"]
    assert not absent.available
    assert absent.cure.split()[0] == "curl"
    assert str(folder / "alexnet-owt-7be5be79.pth") in absent.cure


NAMES = ("cuda", "gsplat", "xformers", "deepspeed", "torchvision", "h264", "motion")


def test_the_machine_is_measured_within_reason():
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    total, available = memory_gib()
    assert 0 < available <= total


@pytest.mark.slow
def test_a_whole_diagnosis_of_this_machine():
    diagnosis = doctor.diagnose()
    assert diagnosis.healthy
    assert {ability.name for ability in diagnosis.abilities} >= {"DeepSpeed training", "NVIDIA GPU"}

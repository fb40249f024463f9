"""The `doctor` command: what this machine can run, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from configs.errors import EXIT_DONE, EXIT_USER, run_command
from eval.dependency_probe import Answer, ask
from eval.machine import describe_machine
from models.published_weights import I3D, INCEPTION, LPIPS_BACKBONES, file_name

ROOT = Path(__file__).resolve().parents[1]

DESCRIPTION = """\
Prints what this machine can run: the machine, every dependency (installed, pinned, importable and if not
why), and what each part of Stillscape would use here. Ends with the commands that get what is missing.

  ./launch.sh doctor
  ./launch.sh doctor --json > doctor.json

exit codes: 0 everything in the core works; 2 a core dependency is missing or broken.
"""

MODULE_OF = {
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "types-pyyaml": None,  # types alone, nothing to import
}

WEIGHTS = {
    "LPIPS (alex)": LPIPS_BACKBONES["alex"],
    "LPIPS (vgg), perceptual loss": LPIPS_BACKBONES["vgg"],
    "FID, KID": INCEPTION,
    "FVD": I3D,
}

Status = Literal["ok", "other version", "missing", "broken"]


@dataclass(frozen=True)
class Dependency:
    """One package of pyproject.toml; group is "core" or the extra that it belongs to."""

    name: str
    group: str
    status: Status
    installed: str | None
    pinned: str | None
    problem: str = ""


@dataclass(frozen=True)
class Ability:
    """One thing that this machine can do or not; cure is the way to get it, "" if there is none."""

    name: str
    available: bool
    detail: str
    cure: str = ""


@dataclass
class Diagnosis:
    """All that doctor found out."""

    machine: dict[str, str] = field(default_factory=dict)
    dependencies: list[Dependency] = field(default_factory=list)
    abilities: list[Ability] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every core dependency is there and can be imported."""
        return all(
            dependency.status in ("ok", "other version")
            for dependency in self.dependencies
            if dependency.group == "core"
        )


def main(argv: list[str] | None = None) -> int:
    """Prints the diagnosis; returns 2 where a core dependency is missing or broken, else 0."""
    parser = argparse.ArgumentParser(
        prog="launch.sh doctor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args(argv)
    if not arguments.json and sys.stderr.isatty():
        print("trying every dependency, about 20 s ...", file=sys.stderr)
    diagnosis = diagnose()
    if arguments.json:
        report = {**asdict(diagnosis), "healthy": diagnosis.healthy}
        print(json.dumps(report, indent=2))
    else:
        print(as_text(diagnosis))
    return EXIT_DONE if diagnosis.healthy else EXIT_USER


def diagnose() -> Diagnosis:
    """Looks at the machine, tries every import and every ability in processes of their own."""
    groups = dict(declared_packages(ROOT / "pyproject.toml"))
    pins = pinned_versions(ROOT / "constraints.txt")
    modules = {name: module_of(name) for name in groups}
    answers = ask(
        [
            *(m for name, m in modules.items() if m and installed_version(name)),
            *("can cuda", "can gsplat", "can xformers", "can deepspeed"),
            *("can torchvision", "can h264", "can motion"),
        ],
        first="models.torchvision_compat",
    )
    dependencies = [
        check_package(name, group, pins.get(name.lower()), answers.get(modules[name] or ""))
        for name, group in groups.items()
    ]
    return Diagnosis(describe_machine(ROOT), dependencies, list(abilities(answers)))


def declared_packages(pyproject: Path) -> Iterator[tuple[str, str]]:
    """Name and first group of every package that pyproject.toml asks for on this Python."""
    seen = set()
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in groups.items():
        for requirement in requirements:
            limit = re.search(r"python_version < '3\.(\d+)'", requirement)
            if limit is None or sys.version_info < (3, int(limit[1])):
                name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
                if name not in seen:
                    seen.add(name)
                    yield name, group


def pinned_versions(constraints: Path) -> dict[str, str]:
    """The version of each package (name in lower case) that constraints.txt pins."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.replace("_", "-").lower(): version for name, _, version in pins}


def check_package(name: str, group: str, pinned: str | None, answer: Answer | None) -> Dependency:
    """The state of one package, from what is installed and how its import went."""
    installed = installed_version(name)
    status: Status = "ok"
    if installed is None:
        status = "missing"
    elif answer is not None and not answer.works:
        return Dependency(name, group, "broken", installed, pinned, answer.detail)
    elif pinned is not None and installed.partition("+")[0] != pinned:
        status = "other version"
    return Dependency(name, group, status, installed, pinned)


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def module_of(name: str) -> str | None:
    """The module that a package is imported as, or None where it has none."""
    return MODULE_OF.get(name.lower(), name.lower().replace("-", "_"))


def abilities(answers: dict[str, Answer]) -> Iterator[Ability]:
    """What each part of Stillscape would use here."""
    cuda = answers["can cuda"]
    extra = "STILLSCAPE_EXTRAS=perceptual,dev,gpu ./launch.sh setup" if cuda.works else ""
    for name, question, cure in (
        ("NVIDIA GPU", "can cuda", ""),
        ("gsplat renderer", "can gsplat", extra),
        ("xformers attention", "can xformers", extra),
        ("DeepSpeed training", "can deepspeed", "./launch.sh setup"),
        ("torchvision", "can torchvision", "STILLSCAPE_EXTRAS=perceptual,dev ./launch.sh setup"),
        ("H.264 video", "can h264", "./launch.sh setup"),
        ("structure from motion", "can motion", "./launch.sh setup"),
    ):
        answer = answers[question]
        yield Ability(name, answer.works, answer.detail, "" if answer.works else cure)
    yield bundled_weights()
    folder = hub_folder() / "checkpoints"
    for name, address in WEIGHTS.items():
        file = folder / file_name(address)
        if file.is_file():
            yield Ability(f"weights of {name}", True, str(file))
        else:
            cure = f"curl -L --create-dirs -o {shlex.quote(str(file))} {shlex.quote(address)}"
            yield Ability(f"weights of {name}", False, "not downloaded", cure)


def bundled_weights() -> Ability:
    """The models that come with the repository."""
    files = sorted((ROOT / "models" / "weights").rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 1e6
    folders = {file.relative_to(ROOT / "models" / "weights").parts[1] for file in files}
    names = ", ".join(sorted(folders))
    detail = f"{names} ({size:.1f} MB)" if files else "none in models/weights"
    return Ability(
        "bundled models", bool(files), detail, "" if files else "git checkout models/weights"
    )


def hub_folder() -> Path:
    """Where torch keeps downloads, told without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub"


def as_text(diagnosis: Diagnosis) -> str:
    """The tables that a person reads."""
    lines = ["Machine"]
    lines += [f"  {name:<10}{value}" for name, value in diagnosis.machine.items()]
    lines += ["", f"  {'package':<22}{'installed':<16}{'pinned':<16}state"]
    for group in dict.fromkeys(dependency.group for dependency in diagnosis.dependencies):
        lines.append(f"{group[0].upper()}{group[1:]}")
        for package in diagnosis.dependencies:
            if package.group == group:
                state = f"{package.status}  {package.problem}".strip()
                installed, pinned = package.installed or "-", package.pinned or "-"
                lines.append(f"  {package.name:<22}{installed:<16}{pinned:<16}{state}")
    lines += ["", "What runs here"]
    for ability in diagnosis.abilities:
        lines.append(
            f"  {'yes' if ability.available else 'no':<5}{ability.name:<41}{ability.detail}"
        )
    wanted = list(dict.fromkeys(cures(diagnosis)))
    lines += ["", "To get what is missing", *(f"  {cure}" for cure in wanted)] if wanted else []
    verdict = "The core is complete." if diagnosis.healthy else "The core is not complete."
    return "\n".join([*lines, "", verdict])


def cures(diagnosis: Diagnosis) -> Iterator[str]:
    """Commands that get what is missing; nothing for GPU packages on a machine without a GPU."""
    has_gpu = any(a.name == "NVIDIA GPU" and a.available for a in diagnosis.abilities)
    for package in diagnosis.dependencies:
        wanted = package.group != "gpu" or has_gpu
        if wanted and package.status != "ok" and package.pinned:
            again = "--force-reinstall --no-deps " if package.status == "broken" else ""
            pin = f"{package.name}=={package.pinned}"
            yield f"./launch.sh python -m pip install {again}-c constraints.txt {pin}"
    yield from (ability.cure for ability in diagnosis.abilities if ability.cure)


if __name__ == "__main__":
    run_command(main)

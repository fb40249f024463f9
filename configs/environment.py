"""Makes the Python environment of the pins, or brings it up to date. launch.sh runs this.

It runs before anything is installed, so it needs the standard library alone. A marker file lies in
the environment while it is being made, a stamp once it is finished: an environment that broke off
half-way is made again from the start, and one that launch.sh did not make is never touched.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = "stillscape.stamp"
UNFINISHED = "stillscape.unfinished"
LOG = "setup.log"

_CAUSES = (
    ("No space left", "the disk is full: it takes about 3 GB, 8 GB with CUDA"),
    ("No matching distribution", "the package index has no such version for this Python"),
    ("ResolutionImpossible", "the pins and the package index do not agree"),
    ("SSL", "the package index cannot be reached: check network, proxy, certificates"),
    ("onnection", "the package index cannot be reached: check the network and the proxy"),
    ("resolve", "the package index cannot be reached: check the network and the proxy"),
    ("timed out", "the package index cannot be reached: check the network and the proxy"),
    ("ensurepip", "this Python lacks the venv module: sudo apt install python3-venv"),
)


def ensure_environment(
    folder: Path, *, extras: str, stamp: str, torch_index: str | None = None
) -> None:
    """Leaves in `folder` a finished environment of that stamp. One process works, others wait.

    extras: names from pyproject.toml, separated by commas.
    torch_index: the package index for torch alone; None is pip's default.
    Raises UserError where a step fails, or where the folder holds something else.
    """
    with _locked(folder):
        if is_ready(folder, stamp):
            return
        unfinished = folder / UNFINISHED
        if _python(folder).exists() and (folder / STAMP).exists():
            _say(f"Bringing {folder} up to date with the pins")
            (folder / STAMP).replace(unfinished)
        else:
            _start_afresh(folder)
        _install(folder, extras, torch_index)
        unfinished.write_text(stamp)
        unfinished.replace(folder / STAMP)


def is_ready(folder: Path, stamp: str) -> bool:
    """Whether the environment in `folder` was finished from the pins that `stamp` stands for."""
    file = folder / STAMP
    return _python(folder).exists() and file.exists() and file.read_text().strip() == stamp.strip()


def _start_afresh(folder: Path) -> None:
    ours = any((folder / name).exists() for name in (STAMP, UNFINISHED))
    if folder.exists() and not ours and any(folder.iterdir()):
        raise UserError(
            f"{folder} exists, but launch.sh did not make it: move it away, or choose another place"
            " for the environment with STILLSCAPE_VENV=/some/folder"
        )
    if Path(sys.prefix).resolve() == folder.resolve():
        raise UserError(
            f"{folder} has to be made again, and it cannot make itself: set STILLSCAPE_PYTHON to a"
            " Python outside of it"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / UNFINISHED).write_text("")
    _say(f"Setting up {folder} (once; a few minutes and about 3 GB, 8 GB with CUDA)")
    version = ".".join(map(str, sys.version_info[:3]))
    _step(folder, f"Python {version}", [sys.executable, "-m", "venv", str(folder)])


def _install(folder: Path, extras: str, torch_index: str | None) -> None:
    pip = [str(_python(folder)), "-m", "pip", "install", "--no-input"]
    pip += ["--disable-pip-version-check"]
    pins = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    # torch comes by itself first, so that no other package's needs choose another build of it.
    index = ["--index-url", torch_index] if torch_index else []
    _step(folder, torch, [*pip, torch, *index])
    project = f"{ROOT}[{extras}]"
    _step(folder, f"stillscape[{extras}]", [*pip, "-c", str(CONSTRAINTS), "--editable", project])


def _step(folder: Path, title: str, command: Sequence[str]) -> None:
    """Runs one step of the set-up with its output in the log; raises UserError where it fails."""
    _say(f"  {title} ... ", end="")
    started = time.monotonic()
    log = folder / LOG
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        result = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if result.returncode == 0:
        _say(f"{time.monotonic() - started:.0f} s")
        return
    _say("failed")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    text = "\n".join(lines)
    cause = next((f"; {cause}" for sign, cause in _CAUSES if sign in text), "")
    last = "\n".join(f"    {line}" for line in lines[-12:])
    raise UserError(
        f"setting up {folder} failed at {title!r}{cause}.\n{last}\nThe whole log is in {log}. Once"
        " the cause is mended, run the same command again."
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock beside `folder`; says so while another process holds it."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}): choose another place for the environment"
            " with STILLSCAPE_VENV=/some/folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"Another process is setting up {folder}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            _say("This file system has no locks: start nothing else until the set-up is finished")
        yield


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the environment lies")
    parser.add_argument("--extras", required=True, help="extras to install, comma-separated")
    parser.add_argument("--stamp", required=True, help="what the finished environment is called")
    arguments = parser.parse_args(argv)
    ensure_environment(
        arguments.folder.absolute(),
        extras=arguments.extras,
        stamp=arguments.stamp,
        torch_index=os.environ.get("STILLSCAPE_TORCH_INDEX"),
    )


if __name__ == "__main__":
    run_command(main)

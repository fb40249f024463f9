"""A shell in namespaces of its own, where tests may make networks and mount disks without being root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest


@contextmanager
def shell_in_namespaces(
    kinds: Sequence[str], script: str, *, tools: Sequence[str] = ()
) -> Iterator[list[str]]:
    """The words of the first line that `script` prints, which then waits for its end while this is entered.

    kinds: unshare's options, such as --net. tools: what the script needs. Skips the test where one of them is missing,
    or the script prints nothing, since such namespaces are not allowed.
    """
    missing = [tool for tool in ("unshare", *tools) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    shell = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", *kinds, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert shell.stdin and shell.stdout and shell.stderr
    words = shell.stdout.readline().split()
    if not words:
        pytest.skip(f"namespaces ({' '.join(kinds)}) can't be used here: {shell.stderr.read()}")
    yield words
    shell.stdin.close()
    shell.wait(20)

"""Each case needs an interpreter of its own: an import that failed, or was mended, stays so."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def python(tmp_path):
    """Runs a script from the root, with packages of the test's own in front; returns the process."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        return subprocess.run(
            [sys.executable, "-c", code + textwrap.dedent(script)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    return run


def imitate_torchvision(folder: Path, body: str) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(body)


def test_the_installed_torchvision_gives_features(python):
    process = python(
        """
        from models.torchvision_compat import TORCHVISION
        if TORCHVISION == "absent":
            print("absent"); raise SystemExit
        import torch, torchvision
        features = torchvision.models.squeezenet1_1(weights=None)(torch.zeros(1, 3, 64, 64))
        print(TORCHVISION, tuple(features.shape))
        """
    )
    assert process.returncode == 0, process.stderr
    if process.stdout.startswith("absent"):
        pytest.skip("torchvision is not installed")
    assert process.stdout.split(" ", 1)[1].strip() == "(1, 1000)"


def test_the_missing_schemas_are_declared_once_the_import_asks_for_them(python, tmp_path):
    imitate_torchvision(
        tmp_path,
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'torchvision::{name}', lambda *a: None)\n",
    )
    process = python("from models.torchvision_compat import TORCHVISION; print(TORCHVISION)")
    assert process.stdout.strip() == "mended", process.stderr


def test_a_torchvision_that_imports_is_left_alone(python, tmp_path):
    imitate_torchvision(tmp_path, "")
    process = python(
        """
        import torch
        from models.torchvision_compat import TORCHVISION
        print(TORCHVISION, hasattr(torch.ops.torchvision, "nms"))
        """
    )
    assert process.stdout.strip() == "native False", process.stderr


def test_any_other_failure_is_not_hidden(python, tmp_path):
    imitate_torchvision(tmp_path, "raise RuntimeError('CUDA versions differ')")
    process = python("import models.torchvision_compat")
    assert process.returncode == 1
    assert "CUDA versions differ" in process.stderr


def test_nothing_happens_where_it_is_not_installed(python):
    process = python(
        """
        import sys
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name == "torchvision":
                    raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        sys.meta_path.insert(0, Hide())
        from models.torchvision_compat import TORCHVISION
        print(TORCHVISION)
        """
    )
    assert process.stdout.strip() == "absent", process.stderr

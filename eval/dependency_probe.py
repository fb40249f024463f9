"""Tries imports and abilities one after another in a process that may die of them. For `doctor`.

Each answer is appended to a file as one line of JSON as soon as it is known, so that the process
that started this one learns all answers up to a crash, and what was being tried when it came.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS = 300


@dataclass(frozen=True)
class Answer:
    """What came of one question: whether it works, and one line of detail (the problem if not)."""

    question: str
    works: bool
    detail: str


def ask(questions: Sequence[str], first: str | None = None) -> dict[str, Answer]:
    """An answer to each question: the name of a module to import, or of an ability (`can ...`).

    Runs them in other processes, one as long as nothing crashes or hangs. Each imports the module
    `first` before it starts, whether that works or not.
    """
    answers: dict[str, Answer] = {}
    while remaining := [question for question in questions if question not in answers]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answers"
            file.touch()
            command = [sys.executable, "-m", "eval.dependency_probe", str(file), first or ""]
            try:
                process = subprocess.run(
                    [*command, *remaining], capture_output=True, timeout=SECONDS, check=False
                )
                end = _ending(process.returncode)
            except subprocess.TimeoutExpired:
                end = f"did not finish in {SECONDS} s"
            for line in file.read_text(encoding="utf-8").splitlines():
                answer = Answer(**json.loads(line))
                answers[answer.question] = answer
        for question in remaining:
            if question not in answers:
                answers[question] = Answer(question, False, end)
                break
    return answers


def _ending(code: int) -> str:
    return f"crashed (signal {-code})" if code < 0 else f"ended Python with exit code {code}"


def _try(question: str) -> Answer:
    try:
        if question in ABILITIES:
            works, detail = ABILITIES[question]()
            return Answer(question, works, detail)
        importlib.import_module(question)
        return Answer(question, True, "")
    except Exception as error:
        reason = str(error).strip() or "no message"
        return Answer(question, False, f"{type(error).__name__}: {reason.splitlines()[0]}")


def _can_cuda() -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        return False, f"torch {torch.__version__} is {build} and finds no GPU"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return True, ", ".join(f"{d.name} {d.total_memory / 2**30:.0f} GiB" for d in devices)


def _can_gsplat() -> tuple[bool, str]:
    import gsplat
    import torch

    if not torch.cuda.is_available():
        return False, "needs an NVIDIA GPU; the CPU rasteriser draws instead"
    points = torch.zeros(1, 3, device="cuda")
    points[0, 2] = 1
    eye = torch.eye(4, device="cuda")
    quaternion = eye[None, 0].contiguous()
    gsplat.rasterization(
        means=points,
        quats=quaternion,
        scales=points.new_full((1, 3), 0.1),
        opacities=points.new_ones(1),
        colors=points,
        viewmats=eye[None],
        Ks=torch.tensor([[[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]], device="cuda"),
        width=8,
        height=8,
    )
    return True, "its kernels run"


def _can_xformers() -> tuple[bool, str]:
    import torch

    from models.attention import xformers_problem

    if not torch.cuda.is_available():
        return False, "needs an NVIDIA GPU; torch's SDPA computes attention instead"
    problem = xformers_problem()
    return problem is None, problem or "its kernel runs"


def _can_deepspeed() -> tuple[bool, str]:
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    backend = accelerator.communication_backend_name()
    return True, f"{deepspeed.__version__} on {accelerator.device_name()}, backend {backend}"


def _can_torchvision() -> tuple[bool, str]:
    from models.torchvision_compat import TORCHVISION

    meaning = {
        "absent": "not installed; LPIPS, FID and the perceptual loss need it",
        "native": "imports as it is",
        "mended": "imports with two operator schemas declared by us, as torch is a CPU build",
    }
    return TORCHVISION != "absent", meaning[TORCHVISION]


def _can_h264() -> tuple[bool, str]:
    import av

    encoder = av.codec.Codec("libx264", "w")
    return True, f"{encoder.name}, PyAV {av.__version__}"


def _can_reconstruct_motion() -> tuple[bool, str]:
    import pycolmap

    return True, f"pycolmap {pycolmap.__version__}, {'CUDA' if pycolmap.has_cuda else 'CPU'}"


ABILITIES: dict[str, Callable[[], tuple[bool, str]]] = {
    "can cuda": _can_cuda,
    "can gsplat": _can_gsplat,
    "can xformers": _can_xformers,
    "can deepspeed": _can_deepspeed,
    "can torchvision": _can_torchvision,
    "can h264": _can_h264,
    "can motion": _can_reconstruct_motion,
}


def main(argv: list[str]) -> None:
    file, first, *questions = argv
    # deepspeed and others print while they are imported; doctor's own output is elsewhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if first:
        _try(first)
    with Path(file).open("a", encoding="utf-8") as answers:
        for question in questions:
            answers.write(json.dumps(asdict(_try(question))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

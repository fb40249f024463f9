"""What the full recipes' headers say: commands that exist, and the figures that `plan` gives."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from pathlib import Path

import pytest

from configs.loader import load_config
from models.pipeline_files import PipelineFile
from train.plan import build_parser
from train.planning.cluster import GIB, Cluster
from train.planning.planner import make_plan
from train.planning.sizes import ROOT
from train.tasks.registry import Recipe

FULL = sorted((ROOT / "configs" / "full").glob("*.yaml"))
PARSERS = {
    "latents": "models.prepare_latents",
    "text": "models.prepare_text",
    "generated": "eval.prepare_generated",
}
"""Of `prepare`'s sources, those that are not data.prepare's."""


def header(path: Path) -> str:
    """The comments that a recipe begins with, as one line each."""
    lines = path.read_text().splitlines()
    comments = [line.lstrip("# ").rstrip() for line in lines if line.startswith("#")]
    return "\n".join(comments).replace("\\\n", " ")


def commands(path: Path) -> list[list[str]]:
    found = re.findall(r"\./launch\.sh (.*)", header(path))
    return [shlex.split(words) for words in found]


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_a_header_says_all(path: Path) -> None:
    text = header(path)
    for label in (
        "Command:",
        "Hardware:",
        "Plan:",
        "Expect:",
        "Data:",
        "From the paper:",
        "Unknown:",
    ):
        assert f"\n{label}" in text, label
    train, plan = commands(path)[:2]
    assert train[:2] == ["train", f"configs/full/{path.name}"]
    assert plan[:2] == ["plan", f"configs/full/{path.name}"]


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_its_commands_are_understood(path: Path) -> None:
    prepared = [words[1:] for words in commands(path) if words[0] == "prepare"]
    assert prepared
    for words in prepared:
        if "--nproc" in words:  # launch.sh's own
            at = words.index("--nproc")
            del words[at : at + 2]
        name = PARSERS.get(words[0], "data.prepare")
        rest = words[1:] if words[0] in PARSERS else words
        importlib.import_module(name).build_parser().parse_args(rest)
    recipe = load_config(path, [], Recipe)
    shown = header(path)
    for folder in (*recipe.task.data, recipe.task.validation_data):
        # Named in full, or one of those that "as in stage 1" covers.
        assert f"--out {folder}" in shown or "as in stage 1" in shown


def test_the_pipeline_that_stage_2_has_written_is_of_what_was_trained() -> None:
    """Its folders are relative to weights/full, and those that the other recipes read and write."""
    camera, first, second = (
        next(path for path in FULL if path.stem == name)
        for name in ("video_camera", "reconstruction_stage1", "reconstruction_stage2")
    )
    (written,) = re.findall(r"^\{.*?\}\}$", header(second), re.M | re.S)
    parts = PipelineFile.model_validate_json(written).parts.model_dump()
    folders = {name: os.path.normpath(Path("weights/full", part)) for name, part in parts.items()}
    video, lalrm = (load_config(path, [], Recipe) for path in (camera, first))
    assert folders == {
        "autoencoder": str(video.task.autoencoder),
        "video_base": str(video.task.base),
        "camera_branches": f"runs/{video.name}/weights/branches",
        "lalrm": f"runs/{lalrm.name}/weights",
        "text_encoder": str(video.task.base),
    }
    made = [words[words.index("--out") + 1] for words in commands(second) if "--out" in words]
    (measured,) = [words[3] for words in commands(second) if words[0] == "python"]
    assert measured in made


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_its_figures_are_plans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    args = build_parser().parse_intermixed_args(commands(path)[1][1:])
    cluster = Cluster(args.nodes, args.gpus, args.gpu_memory * GIB)
    plan = make_plan(load_config(path, args.overrides, Recipe), cluster, path)
    text = " ".join(header(path).split())
    assert plan.fits
    assert f"{plan.memory.total / GIB:.1f} GiB of a GPU's memory" in text
    flops = sum(plan.flops.values())
    assert f"{flops / 1e15:.3g} PFLOP a step" in text or f"{flops / 1e12:.3g} TFLOP a step" in text
    assert f"{plan.seconds:.3g} s" in text
    rate = plan.sample_bytes * plan.recipe.task.batch_size / plan.seconds
    assert f"{rate / 1e6:.0f} MB/s of shards" in text
    assert f"Checkpoints of {plan.checkpoint_bytes / GIB:.1f} GiB" in text
    hours = plan.seconds * plan.recipe.loop.steps / 3600
    assert f"{hours:.1f} h" in text or f"{hours / 24:.1f} days" in text

"""The cluster's scripts, with stand-ins for what a cluster has."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loader import load_config

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "configs" / "cluster" / "slurm.sh"
DOCKERFILE = ROOT / "configs" / "cluster" / "Dockerfile"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder whose launch.sh ends with the code in `code`, once there is such a file, and notes signals."""
    tools = {
        "launch.sh": [
            'echo "$*" > arguments',
            'for name in USR1 TERM; do trap "echo $name >> signals; echo 75 > code" $name; done',
            "while test ! -e code; do sleep 0.05; done",
            'exit "$(cat code)"',
        ],
        "bin/scontrol": ['echo "$*" >> scontrol'],
    }
    for name, lines in tools.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        file.chmod(0o755)
    return tmp_path


def submit(clone: Path, *arguments: str) -> subprocess.Popen[str]:
    path = f"{clone / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(SLURM), *arguments],
        cwd=clone,
        env={**os.environ, "PATH": path, "SLURM_JOB_ID": "77"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (2, False), (1, False)])
def test_slurm_requeues_what_asks_for_it(clone: Path, code: int, requeued: bool) -> None:
    (clone / "code").write_text(str(code))
    process = submit(clone, "r.yaml", "name=a b")
    process.communicate(timeout=60)
    assert process.returncode == code
    assert (clone / "arguments").read_text() == "train r.yaml name=a b resume=auto\n"
    assert (clone / "scontrol").exists() == requeued
    if requeued:
        assert (clone / "scontrol").read_text() == "requeue 77\n"


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_the_slurm_script_outlives_the_signals_that_tasks_get(clone: Path, name: str) -> None:
    """SLURM signals the tasks itself; the script waits for what they end with."""
    process = submit(clone, "r.yaml")
    deadline = time.monotonic() + 60
    while not (clone / "arguments").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    time.sleep(0.5)
    assert process.poll() is None and not (clone / "signals").exists()
    (clone / "code").write_text("75")
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert (clone / "scontrol").read_text() == "requeue 77\n"


def test_the_slurm_script_without_a_recipe_is_a_mistake(clone: Path) -> None:
    process = submit(clone)
    assert "which recipe?" in process.communicate(timeout=60)[0] and process.returncode == 2


def test_slurm_sends_the_signal_to_tasks_in_time() -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", SLURM.read_text(), re.M))
    assert options["signal"] == "USR1@600" and "requeue" in options
    assert options["open-mode"] == "append"


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    text = (ROOT / "configs" / "cluster" / "kubernetes.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_kubernetes_parts_fit_together(documents: dict[str, dict[str, Any]]) -> None:
    service, job = documents["Service"], documents["Job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": documents["Job"]["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    name = f"{documents['Job']['metadata']['name']}-0.{service['metadata']['name']}"
    assert variables["MASTER_ADDR"] == name
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(variables["NNODES"])
    claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]]
    assert documents["PersistentVolumeClaim"]["metadata"]["name"] in claims
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_pods_ask_for_the_extras_that_the_image_has(documents: dict[str, dict[str, Any]]) -> None:
    """launch.sh would run pip again at every start of a pod whose extras are others."""
    pod = documents["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    lines = DOCKERFILE.read_text().splitlines()
    (extras,) = [
        line.partition("STILLSCAPE_EXTRAS=")[2] for line in lines if line.startswith("ENV")
    ]
    assert variables["STILLSCAPE_EXTRAS"] == extras
    assert lines.index("RUN ./launch.sh setup") > lines.index(f"ENV STILLSCAPE_EXTRAS={extras}")
    assert f"WORKDIR {container['workingDir']}" in lines
    assert f"STILLSCAPE_EXTRAS={extras}, for ./launch.sh setup" in SLURM.read_text()


def test_kubernetes_acts_on_our_exit_codes(documents: dict[str, dict[str, Any]]) -> None:
    from configs.errors import EXIT_USER
    from train.stopping import EXIT_REQUEUE

    rules = documents["Job"]["spec"]["podFailurePolicy"]["rules"]
    actions = {
        code: rule["action"]
        for rule in rules
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert actions == {EXIT_REQUEUE: "Ignore", EXIT_USER: "FailJob"}
    assert documents["Job"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_command_of_a_pod_is_one_that_launch_sh_takes(
    documents: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    from train.tasks.registry import Recipe

    (container,) = documents["Job"]["spec"]["template"]["spec"]["containers"]
    gpus = tmp_path / "nvidia-smi"
    gpus.write_text("#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo GPU $i; done\n")
    gpus.chmod(0o755)
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    process = subprocess.run(
        ["bash", "-c", container["args"][0].replace("launch.sh", "launch.sh --dry-run")],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = process.stdout.splitlines()
    assert lines[::2] == ["# node 0", "# node 1", "# node 2"]
    words = shlex.split(lines[3])
    assert "--node-rank=1" in words and "--nproc-per-node=8" in words
    recipe, *overrides = words[words.index("train.run") + 1 :]
    config = load_config(ROOT / recipe, overrides, Recipe)
    assert str(config.runs_root) == "/shared/runs" and config.resume == "auto"
    (mount,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "shared")
    named = {path.as_posix() for path in paths_in(config.model_dump())}
    assert len(named) >= 7, "runs, base, autoencoder, three sets, validation"
    assert {path for path in named if not path.startswith(f"{mount}/")} == set()


def paths_in(tree: Any) -> Iterator[Path]:
    """Every path of a configuration: the image has none of what they name."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from paths_in(value)
    elif isinstance(tree, Path):
        yield tree

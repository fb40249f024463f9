"""launch.sh up to the point where Python would start: which command, with which environment."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("SLURM", "NNODES", "NODE_RANK", "MASTER", "RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_")


def script(path: Path, *lines: str) -> Path:
    """An executable shell script of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def launch(tmp_path):
    """Runs launch.sh with a clean environment plus the given variables; returns the process."""
    ambient = ("STILLSCAPE", "NUMBA_", *LAUNCHERS)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ambient)}
    script(tmp_path / "bin" / "nvidia-smi", "exit 9")

    def run(
        *arguments: str, cwd: Path = ROOT, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path / 'bin'}:{clean['PATH']}"
        return subprocess.run(
            ["bash", str(ROOT / "launch.sh"), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**clean, "PATH": path, "STILLSCAPE_VENV": str(tmp_path / "venv"), **variables},
        )

    return run


@pytest.fixture
def command(launch, tmp_path):
    """The words that --dry-run prints, with the environment's folder written as VENV."""

    def words(*arguments: str, **variables: str) -> list[str]:
        process = launch("--dry-run", *arguments, **variables)
        assert process.returncode == 0, process.stderr
        return shlex.split(process.stdout.replace(str(tmp_path / "venv"), "VENV"))

    return words


def test_help_lists_the_commands_and_makes_nothing(launch, tmp_path):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        process = launch(*arguments)
        assert process.returncode == 0
        for name in ("test", "train", "prepare", "doctor", "setup"):
            assert f"\n  {name} " in process.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("typed", "near"), [("trian", "train"), ("docter", "doctor")])
def test_an_unknown_command_is_refused_with_the_nearest(launch, typed, near):
    process = launch(typed)
    assert process.returncode == 2
    assert process.stderr.startswith(
        f'error: there is no command "{typed}"; the nearest is "{near}"'
    )


@pytest.mark.parametrize("typed", ["xyzzy", ".*", "|", "--frob"])
def test_nothing_near_is_made_up(launch, typed):
    process = launch(typed)
    assert process.returncode == 2
    assert process.stderr.startswith(f'error: there is no command "{typed}". ')


def test_commands_become_modules(command):
    assert command("doctor", "--json") == ["VENV/bin/python", "-m", "eval.doctor", "--json"]
    assert command("test", "-k", "a b") == ["VENV/bin/python", "-m", "pytest", "-k", "a b"]
    assert command("python", "-c", "1") == ["VENV/bin/python", "-c", "1"]


def test_what_models_prepare_is_their_own_module(command):
    latents = command("prepare", "latents", "shards", "--resume")
    assert latents == ["VENV/bin/python", "-m", "models.prepare_latents", "shards", "--resume"]
    assert command("prepare", "text", "--help")[2:] == ["models.prepare_text", "--help"]
    assert command("prepare", "generated", "--help")[2:] == ["eval.prepare_generated", "--help"]
    assert command("prepare", "--check", "latents")[2] == "data.prepare"
    assert command("prepare")[2:] == ["data.prepare"]


def test_preparing_by_several_processes_is_torchrun(command, launch):
    words = command("prepare", "latents", "shards", "--nproc", "2", "--hop=8", OMP_NUM_THREADS="3")
    assert words[3:] == [
        *("VENV/bin/python", "-m", "train.torchrun", "--standalone", "--nproc-per-node=2"),
        *("-m", "models.prepare_latents", "shards", "--hop=8"),
    ]
    assert command("prepare", "dl3dv", "set", "--nproc=1") == [
        *("VENV/bin/python", "-m", "data.prepare", "dl3dv", "set"),
    ]
    for wrong in (["--nproc"], ["--nproc", "x"], ["--nproc=0"]):
        assert launch("--dry-run", "prepare", "dl3dv", "set", *wrong).returncode == 2


def test_training_in_one_process_is_plain_python(command):
    plain = ["VENV/bin/python", "-m", "train.run", "tiny.yaml", "note=it's 1"]
    assert command("train", "tiny.yaml", "note=it's 1") == plain
    assert command("train", "--nproc", "1", "tiny.yaml", "note=it's 1") == plain
    assert command("train", "tiny.yaml", "note=it's 1", "--dry-run") == plain
    assert command("train", "tiny.yaml", "note=it's 1", SLURM_JOB_ID="7", SLURM_NTASKS="1") == plain
    placed = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    assert command("train", "tiny.yaml", "note=it's 1", **placed) == plain


def test_several_processes_on_one_node_are_torchrun(command):
    words = command("train", "tiny.yaml", "--nproc=2", "lr=1e-4", OMP_NUM_THREADS="3")
    assert words == [
        *("OMP_NUM_THREADS=3", "NUMBA_NUM_THREADS=3", "OMP_WAIT_POLICY=PASSIVE"),
        *("VENV/bin/python", "-m", "train.torchrun", "--max-restarts=0", "--standalone"),
        *("--nproc-per-node=2", "-m", "train.run", "tiny.yaml", "lr=1e-4"),
    ]
    assert "--max-restarts=3" in command("train", "--max-restarts", "3", "tiny.yaml")


def test_a_score_is_shared_by_processes_of_one_node(command, launch):
    plain = ["VENV/bin/python", "-m", "eval.score", "clips", "--out", "x"]
    assert command("score", "clips", "--out", "x") == plain
    assert command("score", "--nproc=1", "clips", "--out", "x") == plain
    words = command("score", "clips", "--nproc", "2", "--out", "x", OMP_NUM_THREADS="1")
    assert words[:3] == ["OMP_NUM_THREADS=1", "NUMBA_NUM_THREADS=1", "OMP_WAIT_POLICY=PASSIVE"]
    assert words[3:] == [
        *("VENV/bin/python", "-m", "train.torchrun", "--standalone", "--nproc-per-node=2"),
        *("-m", "eval.score", "clips", "--out", "x"),
    ]
    assert launch("--dry-run", "score", "--nproc", "x", "clips").returncode == 2


def test_processes_share_the_cores(command):
    cores = os.cpu_count() or 1
    assert f"OMP_NUM_THREADS={max(1, cores // 2)}" in command("train", "--nproc", "2", "r.yaml")
    assert "OMP_NUM_THREADS=1" in command("train", "--nproc", str(cores + 1), "r.yaml")


def test_gpu_counts_the_gpus(command, launch, tmp_path):
    assert launch("--dry-run", "train", "--nproc", "gpu", "r.yaml").returncode == 2
    script(tmp_path / "bin" / "nvidia-smi", "echo 'GPU 0: A'", "echo 'GPU 1: A'")
    assert "--nproc-per-node=2" in command("train", "--nproc", "gpu", "r.yaml")


def test_rendezvous_variables_are_torchrun_on_every_node(launch):
    """--dry-run on any node prints what each of them will run."""
    nodes = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "host0"}
    lines = launch("--dry-run", "train", "--nproc", "8", "r.yaml", **nodes).stdout.splitlines()
    assert lines[::2] == ["# node 0", "# node 1", "# node 2"]
    for number, line in enumerate(lines[1::2]):
        words = shlex.split(line)
        assert words[words.index("train.torchrun") :] == [
            *("train.torchrun", "--max-restarts=0", "--nnodes=3", f"--node-rank={number}"),
            *("--nproc-per-node=8", "--master-addr=host0", "--master-port=29500"),
            *("-m", "train.run", "r.yaml"),
        ]
    for missing in ("NODE_RANK", "MASTER_ADDR"):
        given = {key: value for key, value in nodes.items() if key != missing}
        process = launch("--dry-run", "train", "r.yaml", **given)
        assert process.returncode == 2
        assert f"{missing}, " in process.stderr


def test_slurm_starts_one_task_a_rank_and_each_task_takes_its_rank(command, launch, tmp_path):
    script(tmp_path / "bin" / "scontrol", 'echo "first"', "echo second")
    job = {"SLURM_JOB_ID": "20001", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    job["SLURM_JOB_NODELIST"] = "n[1-2]"
    lines = launch("--dry-run", "train", "r.yaml", "lr=1", **job).stdout.splitlines()
    srun = ["srun", "--kill-on-bad-exit=0", "--wait=120", str(ROOT / "launch.sh"), "train"]
    assert shlex.split(lines[-1]) == [*srun, "r.yaml", "lr=1"]
    assert lines[0:4:2] == ["# node first, each of its tasks", "# node second, each of its tasks"]
    assert lines[1] == lines[3]
    assert lines[1].startswith(
        "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=4 MASTER_ADDR=first"
    )
    assert lines[1].endswith("-m train.run r.yaml lr=1 ")
    script(tmp_path / "bin" / "scontrol", 'echo "$3 first"', "echo second")
    task = {
        **job,
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "6",
    }
    words = command("train", "r.yaml", "lr=1", **task)
    assert words == [
        *("RANK=3", "LOCAL_RANK=1", "WORLD_SIZE=4", "MASTER_ADDR=n[1-2] first"),
        *("MASTER_PORT=20001", "OMP_NUM_THREADS=6", "NUMBA_NUM_THREADS=6"),
        *("OMP_WAIT_POLICY=PASSIVE", "VENV/bin/python", "-m", "train.run", "r.yaml", "lr=1"),
    ]


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        (("--nproc", "gpu"), "--ntasks-per-node"),
        (("--nproc=8",), "--ntasks-per-node"),
        (("--max-restarts=2",), "configs/cluster/slurm.sh"),
    ],
)
def test_what_slurm_tasks_would_drop_is_refused(launch, tmp_path, option, cure):
    script(tmp_path / "bin" / "scontrol", "echo first")
    script(tmp_path / "bin" / "nvidia-smi", "echo 'GPU 0: A'", "echo 'GPU 1: A'")
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_PROCID": "0"}
    job["SLURM_JOB_NODELIST"] = job["SLURM_STEP_NODELIST"] = "n[1-3]"
    for place in ({}, {"SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "0"}):
        process = launch("--dry-run", "train", *option, "r.yaml", **job, **place)
        assert process.returncode == 2
        assert process.stderr.startswith("error: train: this SLURM job has 3 tasks")
        assert cure in process.stderr and len(process.stderr.splitlines()) == 1
        assert launch("--dry-run", "train", "--nproc=1", "r.yaml", **job, **place).returncode == 0
    alone = {**job, "SLURM_NTASKS": "1"}
    assert launch("--dry-run", "train", *option, "r.yaml", **alone).returncode == 0


def test_srun_gives_each_task_the_cores_of_the_job(launch, tmp_path):
    """Which it doesn't by itself since SLURM 22.05."""
    script(tmp_path / "bin" / "scontrol", "echo first")
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n1"}
    given = launch("--dry-run", "train", "r.yaml", **job, SLURM_CPUS_PER_TASK="12").stdout
    words = shlex.split(given.splitlines()[-1])
    assert words[0] == "srun" and "--cpus-per-task=12" in words[: words.index("train")]
    assert "cpus-per-task" not in launch("--dry-run", "train", "r.yaml", **job).stdout


def test_a_hostfile_is_launch_sh_on_every_node(launch, tmp_path):
    hostfile = tmp_path / "hosts"
    process = launch("--dry-run", "train", "--hostfile", str(hostfile), "r.yaml")
    assert process.returncode == 2
    assert f"cannot read the hostfile {hostfile}" in process.stderr
    hostfile.write_text("node1 slots=8\n# node2 slots=8\nnode3 slots=4\n")
    process = launch("--dry-run", "train", f"--hostfile={hostfile}", "--nproc=2", "r.yaml")
    assert process.returncode == 2 and f"set slots=2 in {hostfile}" in process.stderr
    arguments = (
        "--dry-run",
        "train",
        "--max-restarts=2",
        f"--hostfile={hostfile}",
        "r.yaml",
        "a=b c",
    )
    process = launch(*arguments, NCCL_DEBUG="INFO")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[::2] == ["# node 0: node1", "# node 1: node3"]
    for number, (name, slots, line) in enumerate([("node1", 8, lines[1]), ("node3", 4, lines[3])]):
        *ssh, text = shlex.split(line)
        assert ssh == ["ssh", "-o", "BatchMode=yes", name]
        words = shlex.split(text)
        assert words[:5] == ["cd", str(ROOT), "&&", "exec", "env"]
        assert {
            "NNODES=2", f"NODE_RANK={number}", "MASTER_ADDR=node1", "MASTER_PORT=29500", "NCCL_DEBUG=INFO",
        } <= set(words)  # fmt: skip
        assert words[words.index("train") - 1 :] == [
            *(str(ROOT / "launch.sh"), "train", f"--nproc={slots}", "--max-restarts=2"),
            *("r.yaml", "a=b c"),
        ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nproc", "0"], '--nproc is "0", expected a number from 1'),
        (["--nproc", "two"], '--nproc is "two", expected a number from 1'),
        (["--nproc"], "--nproc needs a value"),
        (["--max-restarts=x"], '--max-restarts is "x", expected a number from 0'),
    ],
)
def test_a_bad_launcher_option_is_one_sentence(launch, arguments, sentence):
    process = launch("--dry-run", "train", *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: train: {sentence}")
    assert len(process.stderr.splitlines()) == 1


def test_a_command_stays_where_the_user_stands(launch, tmp_path):
    """So that the paths it is given mean what they mean there; the tests run in the repository."""
    script(tmp_path / "venv" / "bin" / "python", "pwd", 'echo "$PYTHONPATH $PYTHONSAFEPATH $*"')
    maker = script(
        tmp_path / "maker",
        'if [ "$1" = -c ]; then echo 3.12; exit; fi',
        'while [ "$1" != --stamp ]; do shift; done',
        f'echo "$2" > {tmp_path / "venv"}/stillscape.stamp',
    )
    elsewhere = tmp_path / "my photos"
    (elsewhere / "data").mkdir(parents=True)  # must not be taken for our package
    for command, module, stands in (
        ("generate", "eval.generate", elsewhere),
        ("prepare", "data.prepare", elsewhere),
        ("train", "train.run", elsewhere),
        ("test", "pytest", ROOT),
    ):
        process = launch(command, "a.jpg", cwd=elsewhere, STILLSCAPE_PYTHON=str(maker))
        assert process.returncode == 0, process.stderr
        where, run = process.stdout.splitlines()
        assert Path(where) == stands
        assert run.split()[0].split(":")[0] == str(ROOT)
        assert run.endswith(f"1 -m {module} a.jpg")


def test_a_python_that_is_too_old_is_named(launch, tmp_path):
    old = script(tmp_path / "python3.9", "echo 3.9")
    process = launch("doctor", STILLSCAPE_PYTHON=str(old))
    assert process.returncode == 2
    assert "needs Python 3.11 or newer" in process.stderr
    assert f"{old} is Python 3.9" in process.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_one_sentence(launch, tmp_path):
    process = launch("doctor", STILLSCAPE_PYTHON=str(tmp_path / "none"))
    assert process.returncode == 2
    assert "no Python that runs" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_a_finished_environment_is_used_as_it_is(launch, tmp_path):
    """The command replaces the shell: its exit code, arguments and environment are its own."""
    python = script(
        tmp_path / "venv" / "bin" / "python", 'echo "$PYTHONPATH $PYTHONSAFEPATH $*"', "exit 75"
    )
    maker = script(
        tmp_path / "maker",
        'if [ "$1" = -c ]; then echo 3.12; exit; fi',
        'while [ "$1" != --stamp ]; do shift; done',
        f'echo "$2" > {tmp_path / "venv"}/stillscape.stamp; echo made >> {tmp_path / "made"}',
    )
    for _ in range(2):
        process = launch("doctor", "a b", cwd=tmp_path, STILLSCAPE_PYTHON=str(maker))
        assert process.returncode == 75, process.stderr
        assert process.stdout.split()[0].split(":")[0] == str(ROOT)
        assert process.stdout.strip().endswith("1 -m eval.doctor a b")
    assert python.exists()
    assert (tmp_path / "made").read_text() == "made\n"
    process = launch("doctor", cwd=tmp_path, STILLSCAPE_PYTHON=str(maker), STILLSCAPE_EXTRAS="dev")
    assert (tmp_path / "made").read_text() == "made\nmade\n"

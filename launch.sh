#!/usr/bin/env bash
# Runs every command of Stillscape: makes .venv on first use, then chooses how to start Python.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
VENV="${STILLSCAPE_VENV:-$ROOT/.venv}"
VENV_PYTHON="$VENV/bin/python"
DRY_RUN=0
SHOWN="" # names of the variables that --dry-run prints before the command

# name | module | what it does
COMMANDS="\
demo|eval.demo|one input becomes a scene with the bundled models; prints where the report is
test|pytest|run the tests; arguments go to pytest
prepare|data.prepare|captures, videos and procedural scenes become shards; --check verifies shards
train|train.run|train by a recipe: train RECIPE [key=value ...]
generate|eval.generate|image and camera path become a video, a scene and a viewer
reconstruct|eval.reconstruct|a clip with cameras becomes a scene
score|eval.score|image metrics, camera error and 3D consistency
refine|eval.refine|polish one scene by a diffusion prior and the pictures it came from
mesh|eval.mesh|a scene becomes a textured mesh
plan|train.plan|what a recipe needs on a given cluster
view|eval.view|look at a scene in the browser
doctor|eval.doctor|what this machine can run, what is missing, how to get it
setup||make the environment and stop
python||Python of the environment; arguments go to it"

usage() {
    local name module text
    printf 'usage: ./launch.sh [--dry-run] COMMAND [ARGUMENTS]\n\ncommands (each has --help):\n'
    while IFS='|' read -r name module text; do
        if exists "$module"; then printf '  %-12s %s\n' "$name" "$text"; fi
    done <<<"$COMMANDS"
    cat <<'TEXT'

options:
  --dry-run          print the command that would run, on each node if there are several, and stop

train only; the same recipe runs in one process or on many nodes:
  --nproc N          N processes on this node (torchrun); "gpu" means one for each GPU
  --max-restarts N   start failed processes again up to N times (torchrun)
  --hostfile FILE    the nodes of a DeepSpeed hostfile, started over ssh in this folder, which they share (torchrun)
  under SLURM        with more than one task: srun, or this task's rank where srun already runs; a task is one
                     process, so ask for as many tasks a node as it has GPUs, without --nproc and --max-restarts
  NNODES, NODE_RANK, MASTER_ADDR [MASTER_PORT]
                     start this on every node, each with its own rank (torchrun)

prepare; what it makes can be shared among processes, which need no word of each other:
  --nproc N          N processes on this node, or one for each "gpu"; under srun and in a SLURM job array
                     each task takes its share by itself

score only:
  --nproc N          N processes on this node share the clips; "gpu" means one for each GPU

environment:
  STILLSCAPE_PYTHON       the Python, 3.11 or newer, that .venv is made with
  STILLSCAPE_VENV         another place for the environment
  STILLSCAPE_EXTRAS       extras to install (default: perceptual,dev; and gpu where there is one)
  STILLSCAPE_SSH          what reaches the nodes of a hostfile (default: ssh -o BatchMode=yes)
  STILLSCAPE_TORCH_INDEX  index for torch alone, e.g. https://download.pytorch.org/whl/cpu

exit codes:
  0 done   2 something you can fix, told in one message   1 a bug   75 stopped early: start again
TEXT
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Whether the module of a command is part of this checkout.
exists() {
    [[ -z "$1" || "$1" == pytest || -f "$ROOT/${1//.//}.py" ]]
}

unknown_command() {
    local names="" name module text near
    while IFS='|' read -r name module text; do
        if exists "$module"; then names="$names $name"; fi
    done <<<"$COMMANDS"
    # shellcheck disable=SC2086 # the names are words
    near="$(python3 -c 'import difflib, sys
print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1))' "$1" $names 2>/dev/null || true)"
    fail "there is no command \"$1\"${near:+; the nearest is \"$near\"}. ./launch.sh --help lists them all"
}

# Sets PYTHON to the first interpreter that is new enough, or says what was found instead.
find_python() {
    local candidate version seen=""
    local candidates=(python3 python3.13 python3.12 python3.11 python)
    [[ -n "${STILLSCAPE_PYTHON:-}" ]] && candidates=("$STILLSCAPE_PYTHON")
    for candidate in "${candidates[@]}"; do
        version="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
        if [[ "$version" =~ ^3\.([0-9]+)$ ]] && ((BASH_REMATCH[1] >= 11)); then
            PYTHON=$candidate
            return
        fi
        seen="$seen $candidate is Python $version;"
    done
    fail "Stillscape needs Python 3.11 or newer, but found:${seen:- no Python that runs;} install one," \
        "or name it: STILLSCAPE_PYTHON=/path/to/python3.12 ./launch.sh ..."
}

# Makes .venv, or brings it up to date, unless it was finished from the pins as they are now.
ensure_environment() {
    local extras="perceptual,dev" stamp
    if nvidia-smi -L >/dev/null 2>&1; then extras="$extras,gpu"; fi
    extras="${STILLSCAPE_EXTRAS:-$extras}"
    stamp="$({ sed '/^\[tool\./,$d' "$ROOT/pyproject.toml"; cat "$ROOT/constraints.txt"; echo "$extras"; } | cksum)"
    [[ -x "$VENV_PYTHON" && "$(cat "$VENV/stillscape.stamp" 2>/dev/null)" == "$stamp" ]] && return
    find_python
    PYTHONPATH="$ROOT" "$PYTHON" -m configs.environment --folder "$VENV" --extras "$extras" --stamp "$stamp"
}

# Prints a command with the variables that are its own.
show() {
    local name
    for name in $SHOWN; do printf '%s=%q ' "$name" "${!name}"; done
    printf '%q ' "$@"
    printf '\n'
}

# What every command finds in its environment.
prepare_environment() {
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    export PYTHONSAFEPATH=1 # our data package, not a folder named data where the user stands
    export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # waiting threads that spin slow busy cores down tenfold
}

# Prints the command (--dry-run) or becomes it, so that signals and exit codes are its own.
start() {
    prepare_environment
    if ((DRY_RUN)); then
        show "$@"
        exit 0
    fi
    exec "$@"
}

num_gpus() {
    { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true
}

# Makes the caller's nproc, as --nproc of command $1 has it, a number or nothing.
count_processes() {
    [[ "$nproc" == gpu ]] && nproc="$(num_gpus)"
    [[ "$nproc" =~ ^([1-9][0-9]*)?$ ]] ||
        fail "$1: --nproc is \"$nproc\", expected a number from 1, or gpu where there is one"
}

# Refuses the caller's nproc and restarts where each of $1 SLURM tasks is one process, so that neither is dropped.
refuse_for_tasks() {
    if [[ ! "$nproc" =~ ^1?$ ]]; then
        fail "train: this SLURM job has $1 tasks, each of them one process, so --nproc $nproc has no meaning; leave it" \
            "out and ask for as many tasks a node as it has GPUs (--ntasks-per-node=8), as configs/cluster/slurm.sh does"
    elif [[ ! "$restarts" =~ ^0*$ ]]; then
        fail "train: this SLURM job has $1 tasks, which --max-restarts $restarts can't start again; leave it out and" \
            "submit configs/cluster/slurm.sh, which puts the job back into the queue"
    fi
}

# Shares the cores among $1 processes on this node.
share_cores() {
    local cores
    cores="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-$((cores > $1 ? cores / $1 : 1))}}"
    export NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-$OMP_NUM_THREADS}"
    SHOWN="OMP_NUM_THREADS NUMBA_NUM_THREADS OMP_WAIT_POLICY"
}

train() {
    local nproc="" hostfile="" restarts=0 rest=() option value
    while (($#)); do
        option="${1%%=*}"
        case "$option" in
            --nproc | --hostfile | --max-restarts)
                if [[ "$1" == *=* ]]; then
                    value="${1#*=}"
                else
                    (($# > 1)) || fail "train: $1 needs a value"
                    value=$2 && shift
                fi
                case "$option" in
                    --nproc) nproc=$value ;;
                    --hostfile) hostfile=$value ;;
                    *) restarts=$value ;;
                esac
                ;;
            *) rest+=("$1") ;;
        esac
        shift
    done
    set -- train.run ${rest[@]+"${rest[@]}"}
    local num_tasks="${SLURM_STEP_NUM_TASKS:-1}"
    ((num_tasks > 1)) || num_tasks="${SLURM_NTASKS:-1}"
    if [[ -z "$hostfile" && -n "${SLURM_JOB_ID:-}" && "$num_tasks" -gt 1 ]]; then refuse_for_tasks "$num_tasks"; fi
    count_processes train
    [[ "$restarts" =~ ^[0-9]+$ ]] || fail "train: --max-restarts is \"$restarts\", expected a number from 0"
    local torchrun=("$VENV_PYTHON" -m train.torchrun "--max-restarts=$restarts")

    if [[ -n "$hostfile" ]]; then
        [[ -r "$hostfile" ]] || fail "train: cannot read the hostfile $hostfile; it has lines such as: node1 slots=8"
        [[ -z "$nproc" ]] || fail "train: the hostfile says how many processes a node has, so --nproc $nproc has no" \
            "meaning; leave it out and set slots=$nproc in $hostfile"
        ((restarts)) && set -- "$1" "--max-restarts=$restarts" "${@:2}"
        local hosts=(-m train.hostfile --hostfile "$hostfile" --launcher "$ROOT/launch.sh")
        if ((DRY_RUN)); then
            PYTHON=$VENV_PYTHON
            [[ -x "$PYTHON" ]] || find_python
            PYTHONPATH="$ROOT" exec "$PYTHON" "${hosts[@]}" --dry-run -- "${@:2}"
        fi
        start "$VENV_PYTHON" "${hosts[@]}" -- "${@:2}"
    elif [[ -n "${RANK:-}" && -n "${LOCAL_RANK:-}" && -n "${WORLD_SIZE:-}" ]]; then
        start "$VENV_PYTHON" -m "$@" # another launcher has already placed this process
    elif [[ -n "${SLURM_JOB_ID:-}" && "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ]]; then
        export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_STEP_NUM_TASKS"
        if [[ -z "${MASTER_ADDR:-}" ]]; then
            MASTER_ADDR="$(scontrol show hostnames "${SLURM_STEP_NODELIST:-$SLURM_JOB_NODELIST}")"
            MASTER_ADDR="${MASTER_ADDR%%$'\n'*}" # not by head, whose early end would be scontrol's failure
        fi
        export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
        share_cores "${SLURM_NTASKS_PER_NODE:-1}"
        SHOWN="RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT $SHOWN"
        start "$VENV_PYTHON" -m "$@"
    elif [[ -n "${SLURM_JOB_ID:-}" && "${SLURM_NTASKS:-1}" -gt 1 ]]; then
        if ((DRY_RUN)); then
            local node first=""
            for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
                first="${first:-$node}"
                printf '# node %s, each of its tasks\n' "$node"
                printf "RANK=\$SLURM_PROCID LOCAL_RANK=\$SLURM_LOCALID WORLD_SIZE=%q MASTER_ADDR=%q MASTER_PORT=%q " \
                    "$SLURM_NTASKS" "${MASTER_ADDR:-$first}" "${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
                show "$VENV_PYTHON" -m "$@"
            done
            printf '# which this starts\n'
        fi
        # Tasks that end with 75 must not be killed by the first of them, or srun's code would be another.
        local srun=(srun --kill-on-bad-exit=0 --wait=120)
        # Since SLURM 22.05 srun doesn't take the job's cores a task by itself.
        if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then srun+=("--cpus-per-task=$SLURM_CPUS_PER_TASK"); fi
        start "${srun[@]}" "$ROOT/launch.sh" train "${@:2}"
    elif [[ "${NNODES:-1}" -gt 1 ]]; then
        [[ -n "${MASTER_ADDR:-}" ]] || fail "train: NNODES is $NNODES, but MASTER_ADDR, the first node's name, is not set"
        [[ -n "${NODE_RANK:-}" ]] || fail "train: NNODES is $NNODES, but NODE_RANK, 0 on the first node, is not set"
        nproc="${nproc:-$(num_gpus)}"
        [[ "$nproc" == 0 ]] && nproc=1
        share_cores "$nproc"
        local node last=$NODE_RANK
        if ((DRY_RUN)); then last=$((NNODES - 1)) NODE_RANK=0; fi
        prepare_environment
        for ((node = NODE_RANK; node <= last; node++)); do
            local words=("${torchrun[@]}" "--nnodes=$NNODES" "--node-rank=$node" "--nproc-per-node=$nproc"
                "--master-addr=$MASTER_ADDR" "--master-port=${MASTER_PORT:-29500}" -m "$@")
            ((DRY_RUN)) || exec "${words[@]}"
            printf '# node %d\n' "$node"
            show "${words[@]}"
        done
        exit 0
    elif [[ "${nproc:-1}" -gt 1 || "$restarts" -gt 0 ]]; then
        share_cores "${nproc:-1}"
        start "${torchrun[@]}" --standalone --nproc-per-node="${nproc:-1}" -m "$@"
    else
        start "$VENV_PYTHON" -m "$@"
    fi
}

# One process, or several on this node that share the clips.
score() {
    local nproc="" rest=()
    while (($#)); do
        case "$1" in
            --nproc=*) nproc="${1#*=}" ;;
            --nproc)
                (($# > 1)) || fail "score: --nproc needs a value"
                nproc=$2 && shift
                ;;
            *) rest+=("$1") ;;
        esac
        shift
    done
    set -- eval.score ${rest[@]+"${rest[@]}"}
    count_processes score
    if [[ "${nproc:-1}" -gt 1 ]]; then
        share_cores "$nproc"
        start "$VENV_PYTHON" -m train.torchrun --standalone --nproc-per-node="$nproc" -m "$@"
    fi
    start "$VENV_PYTHON" -m "$@"
}

# Sources that need a model are further to the right than `data`, which can't import them.
prepare() {
    local module=data.prepare nproc=1 rest=()
    case "${1:-}" in
        latents | text) module="models.prepare_$1" && shift ;;
        generated) module=eval.prepare_generated && shift ;;
    esac
    while (($#)); do
        case "$1" in
            --nproc)
                (($# > 1)) || fail "prepare: --nproc needs a value"
                nproc=$2 && shift
                ;;
            --nproc=*) nproc="${1#*=}" ;;
            *) rest+=("$1") ;;
        esac
        shift
    done
    [[ "$nproc" == gpu ]] && nproc="$(num_gpus)"
    [[ "$nproc" =~ ^[1-9][0-9]*$ ]] ||
        fail "prepare: --nproc is \"$nproc\", expected a number from 1, or gpu where there is one"
    set -- "$module" ${rest[@]+"${rest[@]}"}
    if ((nproc > 1)); then
        share_cores "$nproc"
        start "$VENV_PYTHON" -m train.torchrun --standalone --nproc-per-node="$nproc" -m "$@"
    else
        start "$VENV_PYTHON" -m "$@"
    fi
}

main() {
    local arguments=() argument command line module
    for argument in "$@"; do
        if [[ "$argument" == --dry-run ]]; then DRY_RUN=1; else arguments+=("$argument"); fi
    done
    set -- ${arguments[@]+"${arguments[@]}"}
    command="${1:-help}"
    case "$command" in -h | --help | help) usage && exit 0 ;; esac
    shift
    line="$(awk -F'|' -v name="$command" '$1 == name' <<<"$COMMANDS")"
    module="$(cut -d'|' -f2 <<<"$line")"
    if [[ -z "$line" ]] || ! exists "$module"; then unknown_command "$command"; fi
    ((DRY_RUN)) || ensure_environment
    case "$command" in
        setup) exit 0 ;;
        python) start "$VENV_PYTHON" "$@" ;;
        test) cd "$ROOT" && start "$VENV_PYTHON" -m pytest "$@" ;;
        train) train "$@" ;;
        prepare) prepare "$@" ;;
        score) score "$@" ;;
        *) start "$VENV_PYTHON" -m "$module" "$@" ;;
    esac
}

main "$@"

#!/usr/bin/env bash
# Trains a recipe on SLURM for as long as it takes, through time limits and failures:
#
#     mkdir -p runs/slurm
#     sbatch --nodes=3 configs/cluster/slurm.sh configs/full/video_camera.yaml name=video_camera
#
# Submit it from the clone, which every node must see, with .venv made before: ./launch.sh setup, on a node of the
# kind that trains. On a login node without a GPU set STILLSCAPE_EXTRAS=perceptual,dev,gpu, for ./launch.sh setup and
# for sbatch: launch.sh compares the extras at every start, and where they differ the job would begin with pip.
# The recipe's paths (weights/, shards/, runs/) are relative to the clone: have them there, as links if you like, or
# give them anew as key=value. Ten minutes before the time limit SLURM sends SIGUSR1 to every task; the run saves a
# checkpoint and ends with 75, and this script puts the job back into the queue under its own number. A node that
# fails, or a job of higher priority, requeues it too (--requeue); at most loop.save_every steps are lost then.
# Anything else (2: a mistake in the recipe, 1: a bug or a rank that hung) ends the job and is told in runs/slurm.
# What depends on your cluster: partition, account, GPUs a node and their name, processor cores, the time limit.
#SBATCH --job-name=stillscape
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm/%x-%j.log
set -uo pipefail

(($#)) || { echo "error: which recipe? sbatch $0 RECIPE [key=value ...]" >&2; exit 2; }

# SLURM sends the signals of --signal to the tasks; this shell only has to outlive them.
trap '' USR1
# scancel and preemption send SIGTERM here too: the tasks save within SLURM's KillWait (30 s by default), or
# GraceTime where the partition has one.
trap 'echo "SIGTERM: the run is saving"' TERM

# srun is a child with its own signals; `wait` comes back at each signal, so it is asked again.
(trap - USR1 TERM; exec ./launch.sh train "$@" resume=auto) &
run=$!
wait "$run"
code=$?
while ((code > 128)) && kill -0 "$run" 2>/dev/null; do
    wait "$run"
    code=$?
done

if ((code == 75)); then
    echo "$(date +%FT%T) not finished: back into the queue (start ${SLURM_RESTART_COUNT:-0} ends)"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

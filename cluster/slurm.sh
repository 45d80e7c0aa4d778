#!/usr/bin/env bash
# A Ray cluster on the nodes of one SLURM job, and a training run on it. From the repository:
#
#   sbatch cluster/slurm.sh paper scaling.num_workers=8 \
#       storage=/shared/runs data.store=/shared/store.zarr
#
# Two minutes before the time limit SLURM signals this script: training leaves a checkpoint and the
# job is queued again. So it is after a preemption; README.md says what that costs.
#SBATCH --job-name=stem-complete
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
# shellcheck source=/dev/null
. .venv/bin/activate

# Ray runs what it is sent: only those who know this job's token may send.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=100
RAY_USAGE_STATS_ENABLED=0
# This script runs on the job's first node, and so does task 0.
head="$(hostname -I | cut -d ' ' -f 1)"
address="$head:$((20000 + SLURM_JOB_ID % 10000))"
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S RAY_USAGE_STATS_ENABLED
export head address

# shellcheck disable=SC2016 # each task expands its own variables
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 bash -c '
    if [ "$SLURM_PROCID" -eq 0 ]; then
        node=(--head --node-ip-address="$head" --port="${address##*:}")
    else
        node=(--address="$address")
    fi
    exec ray start "${node[@]}" --num-cpus="$SLURM_CPUS_ON_NODE" --block' &
nodes=$!
until ray health-check --address "$address" >/dev/null 2>&1; do
    kill -0 "$nodes" 2>/dev/null || { echo "Ray did not start" >&2; exit 1; }
    sleep 1
done

RAY_ADDRESS="$address" python -m stem_complete train "$@" &
training=$!
stopped=
trap 'stopped=yes; kill -TERM "$training"' TERM
status=0
wait "$training" || status=$?
# The signal ends the first wait; training then writes its checkpoint.
[ -z "$stopped" ] || wait "$training" || true

# A preemption may end the job's processes and not signal this script. A cancelled job (scancel) is
# no longer RUNNING, and stays away.
job="$(scontrol show job "$SLURM_JOB_ID")"
if [[ $job == *JobState=RUNNING* && (-n "$stopped" || $job =~ PreemptTime=[0-9]) ]]; then
    echo "stopped by SLURM; queued again"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

#!/usr/bin/env bash
# The same run under torchrun, without Ray: simpler, but neither elastic nor in `ray` tools' view.
#
#   sbatch cluster/slurm_torchrun.sh paper \
#       storage=/shared/runs data.store=/shared/store.zarr
#
# There are as many workers as the job has GPUs, or cores where it has none. What happens at the
# time limit and at a preemption is as in slurm.sh.
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
export OMP_NUM_THREADS=1

# By its name torchrun knows the host of the rendezvous: the job's first node, where this script
# runs. A failed worker restarts all from the last checkpoint, three times at most; workers told to
# stop have 100 s for theirs.
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-$SLURM_CPUS_ON_NODE}" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
    --rdzv-endpoint="$(hostname):$((20000 + SLURM_JOB_ID % 10000))" \
    --max-restarts=3 --shutdown-timeout=100 \
    -m stem_complete train "$@" &
training=$!
stopped=
# Signals the workers. (A signal to srun itself would end them at once.)
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
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

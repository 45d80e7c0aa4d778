"""The SLURM scripts: linted, and run with faked tools to see what they do when SLURM signals."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import wait_until

FOLDER = Path(__file__).parents[3] / "cluster"
SCRIPTS = ["slurm.sh", "slurm_torchrun.sh"]

# Stands for training, in the batch script (slurm.sh) or in a step (slurm_torchrun.sh).
TRAINING = """
[ "$1" = -c ] && { echo token; exit; }
echo $$ > training.pid
printf '%s\\n' "$@" > training.arguments
trap 'touch checkpoint; exit 143' TERM
touch training.started
while [ ! -f finish ]; do sleep 0.05; done
exit "$(cat finish)"
"""
TOOLS = {
    "python": TRAINING,
    "torchrun": TRAINING,
    # Hosts a step's command, and passes its exit code on.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; SLURM_PROCID=0 exec "$@"',
    "ray": '[ "$1" = health-check ] || { printf "%s\\n" "$@" > ray.arguments; exec sleep 60; }',
    "scancel": 'kill -TERM "$(cat training.pid)"',
    "scontrol": '[ "$1" = requeue ] && echo "$2" > requeued || cat job',
    "hostname": 'if [ "$#" -gt 0 ]; then echo "10.0.0.1 10.0.0.2"; else echo node0; fi',
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [shellcheck, FOLDER / script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(params=SCRIPTS)
def job(request, tmp_path):
    """A started job: the batch script's process; its folder has the tools' traces."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, body in TOOLS.items():
        tool = tmp_path / ".venv" / "bin" / name
        tool.write_text(f"#!/usr/bin/env bash\n{body}\n")
        tool.chmod(0o755)
    (tmp_path / ".venv" / "bin" / "activate").write_text("PATH=$SLURM_SUBMIT_DIR/.venv/bin:$PATH\n")
    (tmp_path / "job").write_text("JobState=RUNNING PreemptTime=None\n")
    with subprocess.Popen(
        ["bash", FOLDER / request.param, "paper", "scaling.num_workers=2"],
        env=os.environ
        | {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1"}
        | {"SLURM_CPUS_ON_NODE": "2"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        wait_until((tmp_path / "training.started").exists, "training to start")
        yield process, tmp_path
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # SLURM ends what a job leaves behind


def test_training_gets_the_arguments_of_the_job(job):
    _, folder = job
    arguments = (folder / "training.arguments").read_text().split()
    assert arguments[-5:] == [
        *("-m", "stem_complete", "train"),
        *("paper", "scaling.num_workers=2"),
    ]


@pytest.mark.parametrize("code", [0, 1], ids=["finished", "failed"])
def test_a_job_that_ends_by_itself_stays_away(job, code):
    process, folder = job
    (folder / "finish").write_text(str(code))
    assert process.wait() == code
    assert not (folder / "requeued").exists()


def test_the_signal_before_the_end_leaves_a_checkpoint_and_queues_again(job):
    process, folder = job
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert (folder / "checkpoint").exists()
    assert (folder / "requeued").read_text() == "7\n"


def test_a_preemption_that_ends_the_processes_queues_again(job):
    process, folder = job
    (folder / "job").write_text("JobState=RUNNING PreemptTime=2026-01-01T00:00:00\n")
    (folder / "finish").write_text("143")
    process.wait()
    assert (folder / "requeued").read_text() == "7\n"


def test_a_cancelled_job_stays_away(job):
    process, folder = job
    (folder / "job").write_text("JobState=CANCELLED PreemptTime=None\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert not (folder / "requeued").exists()

"""`ray job submit` to a cluster of two nodes that `ray start` made, each with one CPU.

Batches of completions run there, too, and are killed; `scripts/chaos_batch` is the long form.
"""

import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import psutil
import pytest
import yaml
from faults import (
    ENVIRONMENT,
    RayNode,
    free_port,
    journal,
    short_run,
    wait_until,
    write_config,
)
from faults.batch import IN_SHARD, Batch, digests, disturb, write_scans, wrong
from faults.nodes import RAY
from stores import give_mlflow_database

from stem_complete.config import Config
from stem_complete.inference import Outputs, load_completer
from stem_complete.serving.batch import complete_files

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
FOREVER = 100_000
"""Steps, of which a run takes some until it is stopped."""

MORE = 10
"""Steps that it takes when it goes on, to its end."""

NUM_SCANS = 80
"""Of a batch."""

HANG_S = 60
"""Longest time of a unit: the first of a worker loads libraries, on a busy machine."""

PORTS = ("ray-client-server", "dashboard-agent-listen")
"""Of which two nodes on one machine, or two clusters, would take the same."""


class Cluster(NamedTuple):
    """Two nodes and where jobs are submitted to."""

    nodes: list[RayNode]
    address: str
    dashboard: str
    folder: Path

    def workers(self, title: str) -> list[psutil.Process]:
        """Processes of both nodes that Ray calls so."""
        return [process for node in self.nodes for process in node.processes(title)]

    def ray_job(self, *arguments: str) -> CompletedProcess[str]:
        """`ray job ...` from the root of the checkout, as the README tells."""
        return subprocess.run(
            [RAY, "job", *arguments],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | {"RAY_API_SERVER_ADDRESS": self.dashboard},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def submit(
        self, *arguments: str, command: str = "train", options: Sequence[str] = ()
    ) -> CompletedProcess[str]:
        """Submits `python -m stem_complete train ...`, or another command."""
        given = ("--", "python", "-m", "stem_complete", command, *arguments)
        return self.ray_job("submit", "--working-dir", ".", *options, *given)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # A stopped job may take so long to write its checkpoint.
    environment = ENVIRONMENT | {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    port, dashboard = free_port(), free_port()
    head = ("--head", f"--port={port}", f"--dashboard-port={dashboard}", "--no-monitor")
    second = (f"--address=127.0.0.1:{port}",)
    logs = tmp_path_factory.mktemp("nodes")
    nodes: list[RayNode] = []
    # Sockets lie in these folders, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            for name, options in {"head": head, "second": second}.items():
                node = RayNode(
                    *(*options, "--num-cpus=1", f"--temp-dir={folder}/{name}"),
                    *(f"--{free}-port={free_port()}" for free in PORTS),
                    log=logs / f"{name}.log",
                    environment=environment,
                )
                nodes.append(node)
                node.wait_until_started()
            address = f"127.0.0.1:{port}"
            yield Cluster(nodes, address, f"http://127.0.0.1:{dashboard}", Path(folder))
        finally:
            for node in nodes:
                node.kill()


@pytest.fixture(scope="module")
def job(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run that writes no checkpoint by itself before its end, and its config file."""
    folder = tmp_path_factory.mktemp("job")
    config = short_run(
        small_store,
        folder / "runs",
        f"training.steps={FOREVER}",
        f"training.checkpoint_every_steps={FOREVER}",
        f"training.validate_every_steps={FOREVER}",  # whose best has a checkpoint, too
        name="job",
    )
    give_mlflow_database(config.storage)
    return config, write_config(config, folder)


def checkpoints(config: Config) -> list[int]:
    """Their steps."""
    folders = (config.run_folder / "checkpoints").glob("step-*")
    return sorted(int(folder.name.removeprefix("step-")) for folder in folders)


def test_a_stopped_job_leaves_a_checkpoint(cluster: Cluster, job: tuple[Config, Path]) -> None:
    config, file = job
    options = ("--no-wait", "--submission-id=stopped")
    submitted = cluster.submit(str(file), options=options)
    assert submitted.returncode == 0, submitted.stdout

    wait_until(lambda: len(journal(config)) >= 20, "the job to train")
    workers = [len(node.processes("RayTrainWorker")) for node in cluster.nodes]
    assert workers == [1, 1]

    # The program alone was uploaded, without tests, environments and examples.
    uploaded = next(cluster.folder.glob("head/*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert not {"tests", ".venv", ".git"} & {path.name for path in uploaded.iterdir()}
    files = (path for path in uploaded.rglob("*") if path.suffix != ".pyc")  # made there
    assert sum(path.stat().st_size for path in files) < 7 * 2**20

    stopped = cluster.ray_job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout
    steps = checkpoints(config)
    assert len(steps) == 1, cluster.ray_job("logs", "stopped").stdout[-3000:]
    assert 20 <= steps[0] < FOREVER


def test_a_job_submitted_again_goes_on_and_succeeds(
    cluster: Cluster, job: tuple[Config, Path]
) -> None:
    config, file = job
    steps = checkpoints(config)[-1] + MORE
    # With one worker, which takes less time to start.
    changes = (f"training.steps={steps}", "scaling.num_workers=1")
    done = cluster.submit(str(file), *changes)
    assert done.returncode == 0, done.stdout[-3000:]

    # What differs from the defaults comes first; the run's folder has the defaults, too.
    told, _, _ = done.stdout.partition("== training")
    assert f" steps={steps} " in told
    resolved = yaml.safe_load((config.run_folder / "config.yaml").read_text())
    assert resolved["training"]["steps"] == steps
    assert resolved["optimizer"]["beta2"] == 0.999

    assert (config.run_folder / "model" / "model.safetensors").is_file()
    assert checkpoints(config)[-1] == steps


def test_a_job_that_cannot_run_fails_and_says_why(
    cluster: Cluster, job: tuple[Config, Path]
) -> None:
    done = cluster.submit(str(job[1]).replace("job.yaml", "missing.yaml"))
    assert done.returncode != 0
    assert "missing.yaml" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans") / "scans.zarr", NUM_SCANS, 64)


@pytest.fixture(scope="module")
def undisturbed(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The batch in this process, without Ray."""
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    outputs = Outputs(error_map=True, self_check=True)
    complete_files([scans], load_completer(), output, outputs=outputs, scans_in_shard=IN_SHARD)
    return output


def test_a_submitted_batch_completes_scans_on_both_nodes(
    cluster: Cluster, scans: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = ("--error-map", "--shard", str(IN_SHARD), "--ray", "--workers", "2", "--json")
    output = tmp_path / "out.zarr"
    done = cluster.submit(str(scans), "--output", str(output), *options, command="complete")
    assert done.returncode == 0, done.stdout[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len({line["worker"] for line in lines if "worker" in line}) == 2
    assert digests(output) == digests(undisturbed)


def test_no_kill_costs_a_scan_of_a_batch_or_changes_a_byte(
    cluster: Cluster, scans: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = ("--error-map", "--timeout", str(HANG_S), "--json")
    with Batch(scans, tmp_path / "out.zarr", cluster.address, *options) as batch:
        faults = [(5, "driver"), (6, "worker"), (7, "hang")]
        num_units = NUM_SCANS // IN_SHARD
        assert disturb(batch, cluster, faults, num_units, random.Random(0)) >= 1
        assert wrong(batch, undisturbed) == []
        assert len(batch.units()) == num_units
        told = [json.loads(line) for line in batch.log.read_text().splitlines() if line[0] == "{"]
    assert told[-1]["failed"] == {}
    assert len(told[-1]["done"]) + len(told[-1]["skipped"]) == NUM_SCANS

"""Ray nodes that can be killed: several on this machine, or each on a host of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import psutil
from waiting import wait_until
from workers import free_port

ENVIRONMENT = {
    # A raylet that is gone is known to be so after seconds; one that is only slow is not.
    "RAY_health_check_period_ms": "500",
    "RAY_memory_monitor_refresh_ms": "0",
    # By default workers yield to all else, and so would wait for the tests beside them to end.
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    # Figures that nobody looks at.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Of Ray's nodes and of the driver, where all are on one machine."""

_BIN = Path(sys.executable).parent
_PATH = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
RAY = str(_BIN / "ray")
DRAIN_DEADLINE_S = 60


class LocalCluster:
    """Several Ray nodes on this machine: a head without CPUs, and nodes with one CPU each.

    Nodes are added on the main thread only. Nothing outlives it.
    """

    def __init__(self, num_nodes: int) -> None:
        from ray.cluster_utils import Cluster

        self._stack = ExitStack()
        # Sockets lie in this folder, and their paths must be short.
        temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        environment = ENVIRONMENT | {"RAY_TMPDIR": self._stack.enter_context(temporary)}
        self._stack.enter_context(patch.dict(os.environ, environment))
        # Ray Train frees the room of a controller that died only where there is a dashboard.
        dashboard = {"include_dashboard": True, "dashboard_port": free_port()}
        # Nobody reads other nodes' logs here, or adds nodes by demand.
        head = {"num_cpus": 0, "include_log_monitor": False, "no_monitor": True} | dashboard
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.nodes: list[Any] = []
        for _ in range(num_nodes):
            self.add_node()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in [*self.nodes, self._cluster.head_node]:
            with suppress(psutil.NoSuchProcess, ValueError):
                kill_tree(self.raylet(node))
        self._cluster.shutdown()
        self._stack.close()

    def add_node(self) -> None:
        """Adds a node with one CPU, and waits until the cluster knows it."""
        self.nodes.append(self._cluster.add_node(num_cpus=1))

    def raylet(self, node: Any) -> psutil.Process:
        """The process that stands for a node; its workers descend from it."""
        (raylet,) = node.all_processes.get("raylet", [])
        return psutil.Process(raylet.process.pid)

    def kill_node(self, node: Any) -> None:
        """Ends all processes of a node at one moment."""
        kill_tree(self.raylet(node))
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def drain_node(self, node: Any) -> None:
        """Gives the notice that clouds give before they take a machine away."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        # As `ray drain-node` does, which takes seconds to start.
        accepted, why_not = GcsClient(address=self.address).drain_node(
            node.node_id,
            DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "preempted by a test",
            round(1000 * (time.time() + DRAIN_DEADLINE_S)),
        )
        if not accepted:
            raise RuntimeError(f"the node is not drained: {why_not}")

    def workers(self, node: Any = None, title: str = "RayTrainWorker") -> list[psutil.Process]:
        """Workers, by default training ones, of one node or of all."""
        nodes = self.nodes if node is None else [node]
        return [w for n in nodes for w in descendants(self.raylet(n), title)]

    def controllers(self) -> list[psutil.Process]:
        """Ray Train's controllers, which a run has one of."""
        nodes = [self._cluster.head_node, *self.nodes]
        return [c for n in nodes for c in descendants(self.raylet(n), "TrainController")]


class RayNode:
    """A node that `ray start --block` makes, as administrators do.

    Args:
        options: Of `ray start`.
        log: File that takes what it prints.
        environment: Added to this process's.
        prefix: Command that starts it elsewhere, such as on another host.
    """

    def __init__(
        self,
        *options: str,
        log: Path,
        environment: Mapping[str, str] = ENVIRONMENT,
        prefix: Sequence[str] = (),
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                # Nobody reads other nodes' logs here.
                [*prefix, RAY, "start", "--block", "--include-log-monitor=false", *options],
                env=os.environ | environment | {"PATH": _PATH},
                stdout=output,
                stderr=output,
            )

    def wait_until_started(self) -> None:
        """Returns once it is part of the cluster."""

        def started() -> bool:
            text = self.log.read_text(errors="replace")
            if self.process.poll() is not None:
                raise RuntimeError(f"`ray start` ended:\n{text}")
            return "Ray runtime started" in text

        wait_until(started, "Ray to start")

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes that Ray calls `ray::<title>...`."""
        return descendants(psutil.Process(self.process.pid), title)

    def kill(self) -> None:
        """Ends all its processes at one moment."""
        if self.process.poll() is None:
            kill_tree(psutil.Process(self.process.pid))
        self.process.wait()


def kill_tree(process: psutil.Process) -> None:
    """Ends a process and all its descendants at one moment, as a power cut would."""
    family = [process, *process.children(recursive=True)]
    # Stopped first: none notices the death of another, or starts a new one.
    for end in (psutil.Process.suspend, psutil.Process.kill):
        for one in family:
            with suppress(psutil.NoSuchProcess):
                end(one)


def descendants(process: psutil.Process, title: str) -> list[psutil.Process]:
    """Ray's processes below `process` that are called `ray::<title>...`."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "".join(child.cmdline()[:1]).startswith(f"ray::{title}"):
                    found.append(child)
    return found

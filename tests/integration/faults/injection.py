"""Faults, and what each one costs."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import psutil

from faults.nodes import LocalCluster
from faults.training import Training, journal

Fault = Callable[[LocalCluster, Training, random.Random], None]


def _kill_worker(cluster: LocalCluster, _: Training, chance: random.Random) -> None:
    chance.choice(cluster.workers()).kill()


def _terminate_worker(cluster: LocalCluster, _: Training, chance: random.Random) -> None:
    chance.choice(cluster.workers()).terminate()


def _kill_controller(cluster: LocalCluster, _: Training, __: random.Random) -> None:
    for controller in cluster.controllers():
        controller.kill()


def _lose_node(cluster: LocalCluster, _: Training, chance: random.Random) -> None:
    cluster.kill_node(chance.choice([node for node in cluster.nodes if cluster.workers(node)]))
    cluster.add_node()


def _drain_node(cluster: LocalCluster, training: Training, chance: random.Random) -> None:
    node = chance.choice([node for node in cluster.nodes if cluster.workers(node)])
    cluster.drain_node(node)
    training.wait_until(lambda: not cluster.workers(node), "the drained node to be left")
    cluster.kill_node(node)
    cluster.add_node()


def _kill_driver(_: LocalCluster, training: Training, __: random.Random) -> None:
    training.signal(signal.SIGKILL)
    training.wait()
    training.start()


def _interrupt_driver(_: LocalCluster, training: Training, __: random.Random) -> None:
    training.signal(signal.SIGINT)
    code = training.wait()
    if code != 130:
        raise RuntimeError(f"Ctrl-C ended in exit code {code}:\n{training.printed()[-3000:]}")
    training.start()


def _kill_worker_twice(cluster: LocalCluster, training: Training, chance: random.Random) -> None:
    before = {worker.pid for worker in cluster.workers()}
    _kill_worker(cluster, training, chance)
    training.wait_until(
        lambda: any(worker.pid not in before for worker in cluster.workers()), "a new worker"
    )
    time.sleep(3 * chance.random())
    _kill_worker(cluster, training, chance)


FAULTS: dict[str, Fault] = {
    "worker killed": _kill_worker,
    "worker terminated": _terminate_worker,
    "controller killed": _kill_controller,
    "node lost": _lose_node,
    "node drained": _drain_node,
    "driver killed": _kill_driver,
    "driver interrupted": _interrupt_driver,
    "worker killed twice": _kill_worker_twice,
}
"""What can be injected. A node that is lost is replaced; a driver that ends is started again."""


class Cost(NamedTuple):
    """What a fault cost the run.

    Attributes:
        fault: What was injected.
        step: The highest step that had been taken before.
        steps_lost: Steps that were taken again.
        recovery_s: From the injection to the first step of the new workers [s].
    """

    fault: str
    step: int
    steps_lost: int
    recovery_s: float

    def __str__(self) -> str:
        return (
            f"{self.fault} at step {self.step}: {self.steps_lost} steps repeated, "
            f"{self.recovery_s:.1f} s to the next step"
        )


def inject(fault: str, cluster: LocalCluster, training: Training, chance: random.Random) -> Cost:
    """Injects a fault and waits until new workers take steps.

    Raises:
        RuntimeError: The driver gave up.
        TimeoutError: Training did not go on.
    """
    before = {worker.pid for worker in cluster.workers()}
    injected_s = time.time()
    FAULTS[fault](cluster, training, chance)
    return measure(fault, injected_s, before, cluster.workers, training)


def measure(
    fault: str,
    injected_s: float,
    before: set[int],
    workers: Callable[[], list[psutil.Process]],
    training: Training,
) -> Cost:
    """Waits until other workers than those `before` take steps, and tells what it cost."""
    training.wait_until(
        lambda: any(worker.pid not in before for worker in workers()), f"new workers ({fault})"
    )
    started_s = time.time()
    first = training.wait_until(
        lambda: next((e for e in journal(training.config) if e.time_s > started_s), None),
        f"a step after: {fault}",
    )
    earlier = [entry.step for entry in journal(training.config) if entry.time_s < first.time_s]
    at_step = max((e.step for e in journal(training.config) if e.time_s <= injected_s), default=0)
    lost = max(0, max(earlier, default=0) - first.step + 1)
    return Cost(fault, at_step, lost, first.time_s - injected_s)


def plan(
    chance: random.Random, num_faults: int, steps: int, among: Collection[str] = FAULTS
) -> list[tuple[str, int]]:
    """Faults in random order, each kind before any comes again, at random steps.

    Each has its own part of the run, and the last quarter is left alone: what a fault ends
    gracefully takes some more steps first, and the run must not be over by then.
    """
    kinds: list[str] = []
    while len(kinds) < num_faults:
        kinds += chance.sample(list(among), len(among))
    width = 3 * steps // (4 * num_faults)
    return [
        (fault, number * width + chance.randint(1, width))
        for number, fault in enumerate(kinds[:num_faults])
    ]

"""Faults in a training run on a real Ray cluster: how to inject them, and what each one costs.

The integration tests, `scripts/chaos` and `scripts/two_hosts` are made of these parts:

    with LocalCluster(num_nodes=2) as cluster:
        training = Training(config, folder, cluster.address)
        training.start()
        training.wait_for_step(20)
        print(inject("worker killed", cluster, training, random.Random(0)))
        assert training.wait() == 0
"""

from faults.injection import FAULTS, Cost, inject, measure, plan
from faults.nodes import ENVIRONMENT, LocalCluster, RayNode, free_port
from faults.training import (
    Training,
    differing,
    journal,
    recorded_steps,
    short_run,
    train_undisturbed,
    wait_until,
    write_config,
)

__all__ = [
    "ENVIRONMENT",
    "FAULTS",
    "Cost",
    "LocalCluster",
    "RayNode",
    "Training",
    "differing",
    "free_port",
    "inject",
    "journal",
    "measure",
    "plan",
    "recorded_steps",
    "short_run",
    "train_undisturbed",
    "wait_until",
    "write_config",
]

"""Training on a real local Ray cluster: as in one process, and through the death of a worker."""

import os
import signal
import threading
import time

import psutil
import pytest
import torch

from stem_complete.launch import launch
from stem_complete.tracking import list_curves
from stem_complete.training import latest_checkpoint

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(800),
    # Ray's own: sockets and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


STEPS = (
    "training.steps=120",
    "training.checkpoint_every_steps=10",
    "training.validate_every_steps=60",
    "training.log_every_steps=10",
    "optimizer.learning_rate=1e-5",
)


def kill_a_worker(config, killed) -> None:
    """SIGKILLs the second worker once there is a checkpoint to go on from."""
    checkpoints = config.run_folder / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        time.sleep(0.02)
    workers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
    ]
    killed.append(max(int(folder.name.split("-")[1]) for folder in checkpoints.glob("step-*")))
    os.kill(workers[-1].pid, signal.SIGKILL)


def test_a_run_that_loses_a_worker_ends_as_if_it_had_not(cluster, small_config, capfd):
    """Also the same run, to rounding, as in one process without Ray."""
    broken, whole, alone = (
        small_config(
            *STEPS, f"scaling.num_workers={workers}", f"tracking.enabled={tracked}", name=n
        )
        for n, workers, tracked in (("broken", 2, True), ("whole", 2, False), ("alone", 1, False))
    )
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(broken, killed), daemon=True)
    killer.start()
    outcome = launch(broken)[0]
    killer.join()
    assert killed
    assert killed[0] < 120
    assert outcome.result.step == 120
    assert (outcome.model / "model.safetensors").is_file()
    assert "120/120" in capfd.readouterr().err

    launch(whole)
    launch(alone, local=True)
    checkpoints = [latest_checkpoint(config.run_folder) for config in (broken, whole, alone)]
    for name, value in checkpoints[0].state["task"].items():
        assert torch.equal(value, checkpoints[1].state["task"][name]), name
    for name, value in checkpoints[0].metrics.items():
        if name != "train/examples_per_s":
            assert checkpoints[2].metrics[name] == pytest.approx(value, rel=1e-2), name

    # One MLflow run, each step once, across the restart.
    (curve,) = list_curves(outcome.tracking_uri, "stem-complete", "train/outer_loss")
    assert list(curve.steps) == list(range(10, 121, 10))

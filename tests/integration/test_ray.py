"""Training on a real local Ray cluster: as in one process, and through the death of a worker."""

import os
import signal
import threading
import time

import psutil
import pytest

from stem_complete.launch import launch
from stem_complete.training import latest_checkpoint

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
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


def test_two_ray_workers_that_lose_one_end_as_one_process_does(cluster, small_config, capfd):
    steps = ("training.steps=120", "training.checkpoint_every_steps=10", "tracking.enabled=false")
    validation = ("training.validate_every_steps=60", "training.log_every_steps=10")
    changes = (*steps, *validation, "optimizer.learning_rate=1e-5")
    alone = small_config(*changes, name="alone")
    together = small_config(*changes, "scaling.num_workers=2", name="together")
    killed = []

    def kill_a_worker() -> None:
        """SIGKILLs the second worker once there is a checkpoint to go on from."""
        folder = together.run_folder / "checkpoints"
        while not list(folder.glob("step-*")):
            time.sleep(0.05)
        workers = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
        ]
        step = max(int(path.name.split("-")[1]) for path in folder.glob("step-*"))
        os.kill(workers[-1].pid, signal.SIGKILL)
        killed.append(step)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    outcome = launch(together)[0]
    killer.join()
    assert killed
    assert killed[0] < 120
    assert outcome.result.step == 120
    assert (outcome.model / "model.safetensors").is_file()

    launch(alone, local=True)
    expected, found = (latest_checkpoint(config.run_folder) for config in (alone, together))
    assert found.step == expected.step == 120
    for name, value in expected.metrics.items():
        if name != "train/examples_per_s":
            assert found.metrics[name] == pytest.approx(value, rel=1e-3), name
    assert "120/120" in capfd.readouterr().err

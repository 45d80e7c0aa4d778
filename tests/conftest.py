"""Fixtures that several packages' tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stem_complete.benchmarks.runs import small_store as make_small_store
from stem_complete.config import Config, load_config

WORKERS = Path(__file__).parent / "workers"


@pytest.fixture
def torchrun():
    """Runs `tests/workers/<script>.py` in several gloo processes; fails with their output."""

    def run(script: str, num_processes: int, *arguments: object) -> None:
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", f"--nproc-per-node={num_processes}"),
            *(str(WORKERS / f"{script}.py"), *map(str, arguments)),
        ]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture(scope="session")
def small_store(tmp_path_factory) -> Path:
    """Store of 64x64 crops of three bundled micrographs; a network sees one in milliseconds."""
    return make_small_store(tmp_path_factory.mktemp("small") / "store.zarr")


@pytest.fixture
def small_config(small_store, tmp_path):
    """Makes the config of a short run; overrides are `section.field=value`."""

    def make(*overrides: str, name: str = "run") -> Config:
        return load_config(
            [],
            [
                f"name={name}",
                f"storage={tmp_path}",
                f"data.store={small_store}",
                "model.preset=compact",
                "scan.coverage=1/10",
                "training.steps=6",
                "training.batch_size=4",
                "training.log_every_steps=1",
                "training.validate_every_steps=3",
                "training.validation_examples=3",
                "training.checkpoint_every_steps=2",
                "training.num_pictures=1",
                *overrides,
            ],
        )

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, or all other processes would wait for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_faults.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Of the fault tests: what was injected, what was lost, and how long recovery took."""
    costs = [
        value
        for outcome in ("passed", "failed")
        for test in terminalreporter.getreports(outcome)
        if test.when == "call"
        for name, value in test.user_properties
        if name == "fault"
    ]
    if costs:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(costs))

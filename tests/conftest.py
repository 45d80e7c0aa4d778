"""Fixtures that several packages' tests share."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

# Before torch is imported: processes of tests with more threads than one are in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import workers
from hypothesis import settings
from isolation import alone
from stores import small_store as make_small_store
from training_runs import SMALLEST

from stem_complete.config import Config, load_config

pytest_plugins = ["untrained", "small_stores"]

UNIT = Path(__file__).parent / "unit"

# Nothing is judged by the clock, and the number of examples by what all tests may take together.
settings.register_profile("tests", deadline=None, max_examples=30)
settings.load_profile("tests")


@pytest.fixture
def torchrun(tmp_path_factory):
    """Runs `tests/workers/<script>.py` in several gloo processes; fails with their output."""
    return partial(workers.run, folder=tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory) -> Path:
    """Store of 64x64 crops of three bundled micrographs; a network sees one in milliseconds."""
    return make_small_store(tmp_path_factory.mktemp("small") / "store.zarr")


@pytest.fixture
def small_config(small_store, tmp_path):
    """Makes the config of a short run; overrides are `section.field=value`.

    Its network is the smallest, unless it is to be a preset as it is.
    """

    def make(*overrides: str, name: str = "run", smallest: bool = True) -> Config:
        return load_config(
            [],
            [
                f"name={name}",
                f"storage={tmp_path}",
                f"data.store={small_store}",
                "model.preset=compact",
                *([SMALLEST] if smallest else []),
                "scan.coverage=1/10",
                "training.steps=6",
                "training.batch_size=4",
                "training.log_every_steps=1",
                "training.validate_every_steps=3",
                "training.validation_examples=3",
                "training.checkpoint_every_steps=2",
                "training.num_pictures=1",
                "training.calibration_scans=2",
                *overrides,
            ],
        )

    return make


# Hooks instead of a fixture, as they include fixtures of whole modules and sessions.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with alone() if UNIT in item.path.parents else nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with alone() if UNIT in item.path.parents else nullcontext():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, or all other processes would wait for one of them at the end.

    A process that has few tests left is given another file: of these the last three, one by one.
    """
    longest = ["faults", "jobs", "two_hosts", "tracking", "wheel"]
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(longest)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


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

"""Real Ray clusters for the fault tests, and at the end a list of what each fault cost."""

from collections.abc import Callable, Iterator

import pytest
from faults import Cost, LocalCluster

COSTS = pytest.StashKey[list[Cost]]()


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """Two nodes with one CPU each, and a head for what takes none."""
    with LocalCluster(num_nodes=2) as cluster:
        yield cluster


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Callable[[Cost], None]:
    """Has a fault's cost printed when all tests are done."""
    return pytestconfig.stash.setdefault(COSTS, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What was injected, what was lost, and how long recovery took."""
    for number, cost in enumerate(config.stash.get(COSTS, [])):
        if not number:
            terminalreporter.section("faults")
        terminalreporter.line(str(cost))

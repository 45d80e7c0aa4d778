"""Real Ray clusters for the fault tests, and at the end a list of what each fault cost."""

from collections.abc import Callable, Iterator

import pytest
from faults import Cost, LocalCluster

FAULT = "fault"


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """Two nodes with one CPU each, and a head for what takes none."""
    with LocalCluster(num_nodes=2) as cluster:
        yield cluster


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[Cost], None]:
    """Has a fault's cost printed when all tests are done."""
    return lambda cost: record_property(FAULT, str(cost))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was injected, what was lost, and how long recovery took."""
    costs = [
        value
        for outcome in ("passed", "failed")
        for test in terminalreporter.getreports(outcome)
        if test.when == "call"
        for name, value in test.user_properties
        if name == FAULT
    ]
    if costs:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(costs))

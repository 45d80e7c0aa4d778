"""Real Ray clusters for the fault tests."""

from collections.abc import Callable, Iterator

import pytest
from faults import Cost, LocalCluster


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """Two nodes with one CPU each, and a head for what takes none."""
    with LocalCluster(num_nodes=2) as cluster:
        yield cluster


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[Cost], None]:
    """Has a fault's cost printed when all tests are done."""
    return lambda cost: record_property("fault", str(cost))

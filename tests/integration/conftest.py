"""Real Ray clusters and MLflow databases."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import Cost, LocalCluster
from stores import give_mlflow_database, mlflow_database

from stem_complete.tracking import default_uri


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """Two nodes with one CPU each, and a head for what takes none."""
    with LocalCluster(num_nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template() -> Path:
    """An empty MLflow database."""
    return mlflow_database()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Address of an empty MLflow database of the test's own."""
    give_mlflow_database(str(tmp_path))
    return default_uri(tmp_path)


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[Cost], None]:
    """Has a fault's cost printed when all tests are done."""
    return lambda cost: record_property("fault", str(cost))

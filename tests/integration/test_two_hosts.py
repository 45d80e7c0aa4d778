"""Two hosts, each with its own network, processes and raylet, of which one is cut off."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Cost
from faults.two_hosts import obstacle, train_and_lose_a_host

pytestmark = pytest.mark.ray


def test_training_outlives_a_host(
    small_store: Path, tmp_path: Path, report: Callable[[Cost], None]
) -> None:
    """The host falls silent, as no killed process does, and comes back."""
    if reason := obstacle():
        pytest.skip(reason)
    cost = train_and_lose_a_host(small_store, tmp_path, "training.steps=45", cut_link=True)
    report(cost)
    assert cost.steps_lost <= 20

"""What all unit tests have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest


@pytest.fixture(scope="module", autouse=True)
def unsynced() -> Iterator[None]:
    """Files need not survive a power failure; to wait for the disk takes longer than most tests."""
    with patch.object(os, "fsync", lambda descriptor: None):
        yield

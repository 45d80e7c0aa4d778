"""Keeps unit tests from starting processes, opening sockets and opening databases."""

from __future__ import annotations

import multiprocessing.process
import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn
from unittest.mock import patch

import pytest

FORBIDDEN = {
    "starts a process": [
        (subprocess.Popen, "__init__"),
        (multiprocessing.process.BaseProcess, "start"),
        (os, "fork"),
    ],
    "opens a socket": [(socket.socket, "bind"), (socket.socket, "connect")],
    "opens a database": [(sqlite3, "connect"), (sqlite3.dbapi2, "connect")],
}


@contextmanager
def alone() -> Iterator[None]:
    """Fails the test that does any of this in the block, even where errors are caught."""
    with ExitStack() as patches:
        for what, functions in FORBIDDEN.items():

            def refuse(*_: object, what: str = what, **__: object) -> NoReturn:
                pytest.fail(f"a unit test {what}: move it to tests/integration")

            for owner, name in functions:
                patches.enter_context(patch.object(owner, name, refuse))
        yield

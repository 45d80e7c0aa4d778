"""Keeps unit tests from starting processes, opening sockets and opening databases."""

from __future__ import annotations

import multiprocessing.process
import os
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import urllib3.util.connection  # noqa: F401 - binds a socket when it is imported, once

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
    """Fails the test that does any of this in the block, even where errors are caught.

    Daemon threads that an integration test left in this process may go on.
    """
    older = set(threading.enumerate()) - {threading.current_thread()}
    with ExitStack() as patches:
        for what, functions in FORBIDDEN.items():
            for owner, name in functions:
                refused = _refused(what, getattr(owner, name), older)
                patches.enter_context(patch.object(owner, name, refused))
        yield


def _refused(
    what: str, function: Callable[..., Any], older: set[threading.Thread]
) -> Callable[..., Any]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() in older:
            return function(*arguments, **options)
        return pytest.fail(f"a unit test {what}: move it to tests/integration")

    return refuse

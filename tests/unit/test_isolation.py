"""Unit tests are kept from what belongs into integration tests."""

import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress

import pytest


def bind():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))


def connect():
    with socket.socket() as opened:
        opened.connect(("127.0.0.1", 9))


WAYS = {
    "a program": lambda: subprocess.run([sys.executable, "--version"], check=False),
    "a shell": lambda: os.popen("true"),
    "a process": lambda: multiprocessing.get_context("spawn").Process().start(),
    "a forked process": lambda: os.fork(),
    "a server": bind,
    "a connection": connect,
    "a database": lambda: sqlite3.connect(":memory:"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_unit_test_fails_at_once_even_if_it_catches_errors(way):
    with (
        pytest.raises(pytest.fail.Exception, match="move it to tests/integration"),
        suppress(Exception),
    ):
        way()

"""Command line. Each command parses its arguments, calls one function and prints its result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

# In the order of `--help`.
from stem_complete.cli import demo, ingest, train, compare, complete  # isort: skip # noqa: F401
from stem_complete.cli import watch, serve, evaluate, inspect, scan, register, benchmark  # isort: skip # noqa: F401
from stem_complete.cli.base import app
from stem_complete.console import errors_in_one_line, fail
from stem_complete.errors import ConfigError

MISUSED, INTERRUPTED, TERMINATED = 2, 130, 143
"""Exit codes; the last two, after Ctrl-C and SIGTERM, are those of any Unix command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command, by default this process's, and ends it; errors become one line and a code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    # Threads that wait for one another without rest take four times as long on a busy machine, and
    # those that sleep at once longer than one thread alone, as a completion is thousands of
    # operations. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        with errors_in_one_line():
            _check_folder()
            code = app(args=arguments, standalone_mode=False) or 0
    except typer.TyperException as error:  # an unknown command or option, or a value out of range
        # Without what pydantic puts before its messages.
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        fail(f"{message}; see --help", MISUSED)
    except SystemExit as stop:
        code = stop.code
    if code in (INTERRUPTED, TERMINATED):
        fail("interrupted; start it again to go on", int(code))
    sys.exit(code)


def _check_folder() -> None:
    """Checks that the working directory is there, from which the user's paths start."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError(
            expected="a folder that is there",
            found="one that was removed",
            where="the working directory",
            fix="cd to another",
        ) from None

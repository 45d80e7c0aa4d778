"""Command line. Each command parses its arguments, calls one function and prints its result."""

from __future__ import annotations

import logging
import sys

# In the order of `--help`.
from stem_complete.cli import demo, data, training, completion, benchmark  # isort: skip # noqa: F401
from stem_complete.cli.base import app
from stem_complete.errors import StemCompleteError

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as of any Unix command."""


def main() -> None:
    """Runs the command line; known errors become one line and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    try:
        app()
    except StemCompleteError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(error), 1)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            _fail("interrupted; start it again to go on", int(stop.code))
        raise


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)

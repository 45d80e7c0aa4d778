"""Why a run ended before its last step: kept in its folder, for those who look at it later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple

from upath import UPath

from stem_complete.credentials import hidden
from stem_complete.errors import StemCompleteError, TrainingError, in_one_line
from stem_complete.storage.claim import ClaimLostError
from stem_complete.storage.paths import clear_errors, is_local, remove, write_atomically
from stem_complete.training.stopping import StopRequest

ENDING_FILE = "ending.json"


Cause = Literal["time", "patience", "signal", "killed", "diverged", "failed"]
"""Its time or its patience was over, it received a signal, its process died, losses diverged, or
anything else."""


class DivergedError(TrainingError):
    """Losses, gradients or weights that stayed non-finite: a lower learning rate may help."""


class Ending(NamedTuple):
    """Why a run ended early.

    Attributes:
        cause: See `Cause`.
        words: The same for a reader.
        learning_rate: `optimizer.learning_rate` of the config that it ran with, if known.
    """

    cause: Cause
    words: str
    learning_rate: float | None


@contextmanager
def ending_kept(
    folder: UPath, stop: StopRequest, learning_rate: float
) -> Iterator[Callable[[Cause, str], None]]:
    """Keeps why the block ended early: by what it raises, or by calling what it is given.

    Args:
        folder: Of the run.
        stop: Who asked the run to stop.
        learning_rate: See `Ending`.

    Yields:
        Keeps a cause and its words.
    """
    file = folder / ENDING_FILE

    def keep(cause: Cause, words: str) -> None:
        content = json.dumps(Ending(cause, words, learning_rate)._asdict()).encode()
        # If it cannot be written, that is told by what could not be written before.
        with suppress(StemCompleteError), clear_errors(file):
            write_atomically(file, content)

    with clear_errors(file):
        remove(file)
    try:
        yield keep
    except ClaimLostError:
        raise  # it is the other process's run now
    except (KeyboardInterrupt, SystemExit):
        keep("signal", stop.reason or "it was interrupted while it started or ended")
        raise
    except DivergedError as error:
        keep("diverged", str(error))
        raise
    except StemCompleteError as error:
        keep("failed", str(error))
        raise
    except Exception as error:
        keep("failed", hidden(in_one_line(f"{type(error).__name__}: {error}")))
        raise


def read_ending(folder: UPath) -> Ending | None:
    """Why a run ended early; None if it did not, or its process was killed.

    Raises:
        StorageError: The storage cannot be read.
    """
    file = folder / ENDING_FILE
    with clear_errors(file):
        try:
            content = file.read_bytes() if is_local(file) else file.fs.cat_file(file.path)
        except FileNotFoundError:
            return None
    with suppress(ValueError, TypeError, KeyError):
        values = json.loads(content)
        return Ending(**{name: values[name] for name in Ending._fields})
    return None

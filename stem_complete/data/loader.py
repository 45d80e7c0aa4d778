"""Micro-batches of one worker, in the sampler's order."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stem_complete.data.examples import Examples
from stem_complete.data.sampler import global_batch, worker_positions
from stem_complete.errors import DataError, StemCompleteError

# Requested from each process at a time: two micro-batches, one that it reads and one that waits, or
# as many as make so many examples. With fewer, both sides wait for each other to be scheduled.
_BATCHES_AHEAD, _EXAMPLES_AHEAD = 2, 16


class Batch(NamedTuple):
    """Part of a global batch.

    Attributes:
        examples: As `Examples.read` gives them, [b, ...].
        indices: Their numbers, [b] int64.
        positions: Their positions in the global batch, [b] int64.
        steps: Steps of the run from which with the positions their variation and scan follow, [b]
            int64; None: that in which the batch is trained on.
    """

    examples: Tensor
    indices: Tensor
    positions: Tensor
    steps: Tensor | None = None


def training_batches(
    examples: Examples,
    *,
    steps: range,
    seed: int,
    batch_size: int,
    micro_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_processes: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Micro-batches of worker `rank` for `steps`, in order; as many a step on every worker.

    Args:
        examples: Those of their training split are used.
        steps: Steps to load, for example from the step at which a run resumes to its last.
        seed: Seed of the order of the examples.
        batch_size: Examples a step, over all workers.
        micro_batch_size: Examples a micro-batch.
        rank: This worker.
        world_size: Number of workers.
        num_processes: Processes that read ahead; with 0 this process reads when asked.
        pin_memory: Whether batches go to page-locked memory, for copies to a GPU.

    Raises:
        StemCompleteError: An example cannot be read.
        DataError: A process was killed.
    """
    numbers = examples.indices("train")
    places = worker_positions(rank, world_size, batch_size, micro_batch_size)

    def plan() -> Iterator[_Request]:
        for step in steps:
            batch = numbers[global_batch(len(numbers), seed, step, batch_size)]
            for positions in places:
                yield _Request(batch[positions], positions)

    loader = DataLoader(
        _Requested(examples),
        batch_size=None,
        sampler=plan(),
        num_workers=num_processes,
        pin_memory=pin_memory,
        # A forked process would share the locks of whatever threads run here.
        multiprocessing_context="spawn" if num_processes else None,
        prefetch_factor=(
            max(_BATCHES_AHEAD, _EXAMPLES_AHEAD // micro_batch_size) if num_processes else None
        ),
        worker_init_fn=_leave_interrupts,
        # Otherwise torch draws a number from the global generator.
        generator=torch.Generator(),
    )
    with _own_child_handler():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, StemCompleteError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _killed(error) from error
    finally:
        del batches  # which ends the processes, even if a traceback keeps this frame


class _Request(NamedTuple):
    """The micro-batch to read: numbers of its examples and their positions in the global batch."""

    indices: NDArray[np.int64]
    positions: NDArray[np.int64]


class _Requested(Dataset[Batch | StemCompleteError]):
    """Micro-batches by request."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, request: _Request) -> Batch | StemCompleteError:
        """The micro-batch, or why it cannot be read: DataLoader would hand on only the text."""
        try:
            read = self._examples.read(request.indices)
        except StemCompleteError as error:
            return error
        return Batch(*(torch.from_numpy(part) for part in (read, *request)))


def _leave_interrupts(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks


@contextmanager
def _own_child_handler() -> Iterator[None]:
    """Keeps torch from handling SIGCHLD: its error of a killed process could be raised anywhere.

    Without the handler it is raised where the next batch is asked for.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield  # where torch sets no handler
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _killed(error: RuntimeError) -> DataError:
    return DataError(
        expected="processes that read examples",
        found=str(error),
        where="the loader",
        fix="if memory ran out, use fewer data.loader_workers",
    )

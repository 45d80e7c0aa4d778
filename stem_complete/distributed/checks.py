"""Checks that all workers pass together: the same environment, and one's failure on all.

A worker that raises alone leaves the others waiting in their next collective. Here all learn of it
in the same collective, and raise too.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

import stem_complete
from stem_complete.distributed.collectives import gather_objects, world_size
from stem_complete.errors import CollectiveError, ConfigError, StemCompleteError

T = TypeVar("T")


def environment() -> dict[str, str]:
    """Versions and code of this process, which must be the same on every worker.

    This package's files count, not only its version: a node with an older checkout differs.
    """
    folder = Path(stem_complete.__file__).parent
    code = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        code.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    facts = {
        "stem-complete": f"{stem_complete.__version__} (code {code.hexdigest()[:8]})",
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if torch.cuda.is_available():
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return facts


def agree(facts: Mapping[str, str]) -> None:
    """Checks that every worker has the same facts, say versions and digests.

    Raises:
        ConfigError: They differ; on every worker, with the values and their ranks.
    """
    gathered = gather_objects((socket.gethostname(), dict(facts)))
    hosts = [host for host, _ in gathered]
    differences = []
    for name in dict.fromkeys(name for _, given in gathered for name in given):
        ranks: dict[str, list[int]] = {}
        for rank, (_, given) in enumerate(gathered):
            ranks.setdefault(given.get(name, "nothing"), []).append(rank)
        if len(ranks) > 1:
            places = (f"{value} on {_workers(ranks[value], hosts)}" for value in ranks)
            differences.append(f"{name} {', '.join(places)}")
    if differences:
        raise ConfigError(
            expected="the same on every worker",
            found="; ".join(differences),
            where="start of the workers",
            fix="give every node the same versions, code, config and data",
        )


def from_main(compute: Callable[[], T]) -> T:
    """Calls `compute` on rank 0 only, and returns its result on every worker.

    For small results: they are pickled.

    Raises:
        StemCompleteError: `compute` raised it; the same on every worker.
        CollectiveError: `compute` raised something else; on every worker.
    """
    if world_size() == 1:
        return compute()
    outcomes = gather_objects(_attempt(compute) if dist.get_rank() == 0 else None)
    outcome: T | StemCompleteError = outcomes[0]
    return _result(outcome)


def all_ok(check: Callable[[], T]) -> T:
    """Calls `check`, and returns its result once it has succeeded on every worker.

    Raises:
        StemCompleteError: `check` raised it; on every worker, with the first failed rank named.
        CollectiveError: `check` raised something else; likewise.
    """
    if world_size() == 1:
        return check()
    own = _attempt(check, prefix=f"rank {dist.get_rank()} on {socket.gethostname()}: ")
    own_failure = own if isinstance(own, StemCompleteError) else None
    for failure in gather_objects(own_failure):
        if failure is not None:
            raise failure from own_failure
    return _result(own)


def _attempt(action: Callable[[], T], prefix: str = "") -> T | StemCompleteError:
    """Result of `action`, or what it raised as one of our errors, which can be pickled."""
    try:
        return action()
    except StemCompleteError as error:
        where = f"{prefix}{error.where}"
        failure = type(error)(
            expected=error.expected, found=error.found, where=where, fix=error.fix
        )
        failure.__cause__ = error
    except Exception as error:  # no other worker may be left waiting
        failure = CollectiveError(
            expected="success on every worker",
            found=f"{type(error).__name__}: {error}",
            where=f"{prefix}{getattr(action, '__name__', action)}",
            fix="see this worker's log",
        )
        failure.__cause__ = error
    return failure


def _result(outcome: T | StemCompleteError) -> T:
    if isinstance(outcome, StemCompleteError):
        raise outcome
    return outcome


def _workers(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Ranks in words, by host: `ranks 0, 2 (node-a) and 5 (node-b)`."""
    by_host: dict[str, list[str]] = {}
    for rank in ranks:
        by_host.setdefault(hosts[rank], []).append(str(rank))
    places = [f"{', '.join(numbers)} ({host})" for host, numbers in by_host.items()]
    return ("ranks " if len(ranks) > 1 else "rank ") + " and ".join(places)

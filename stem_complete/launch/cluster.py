"""The Ray cluster of a run: the one that the job belongs to, or a local one while it trains.

What is wrong with an address is found before Ray is asked, which would try for minutes.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

import ray
from ray._private import services
from ray._private import utils as ray_utils

from stem_complete.config.schema import ScalingConfig
from stem_complete.console import console, waiting
from stem_complete.distributed import num_cores
from stem_complete.errors import ConfigError, StemCompleteError, TrainingError
from stem_complete.extras import program
from stem_complete.files import leave_removed_folder
from stem_complete.time_limit import OutOfTimeError, time_limit

CONNECT_S = 5.0
"""Time that a head has to take a connection."""

START_S = 55.0
"""Time that Ray has to start a cluster."""

JOIN_S = 28.0
"""Time that it has to join one; Ray's C++ code looks up from its tries every 30 s."""

STOP_S = 10.0
"""Time that is left to it once a signal asked to stop, which its processes may have got, too."""

_OBJECT_STORE_BYTES = 2**27
"""Configs and messages are all that goes through Ray's object store, by default a third of memory,
which /dev/shm of a container is too small for."""

_LONGEST_SOCKET = 107
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store_1"
"""What Ray puts behind the temporary folder; the system allows no longer paths of sockets."""


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Ray knows a node for up to 20 s after it was lost, and waits so long for places on it.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A local cluster shares its cores with the workers, and figures for the dashboard, most of
    # which MLflow has, too, took a sixth of the time of Ray's processes.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Ray's settings, unless the user's environment has others."""


@contextmanager
def ray_cluster(
    scaling: ScalingConfig,
    address: str | None = None,
    *,
    object_store_bytes: int = _OBJECT_STORE_BYTES,
) -> Iterator[None]:
    """Joins the cluster at RAY_ADDRESS, or another address, or starts a local one for the block.

    Args:
        scaling: What a local cluster must have room for.
        address: Instead of RAY_ADDRESS.
        object_store_bytes: Of a local cluster, for what goes between its processes.

    Raises:
        ConfigError: RAY_ADDRESS is no address of a cluster's head.
        TrainingError: No cluster answers there, or it has other versions, or none can be started.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS", "local")
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address in ("", "local"):
        arguments |= _local_arguments(scaling, object_store_bytes)
        title = "starting Ray"
    else:
        check_address(address)
        title = f"joining the Ray cluster at {address}"
    with waiting(title), _signals_can_wait(), _processes_in_a_group_of_their_own():
        _start(address, arguments)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str, timeout_s: float = CONNECT_S) -> None:
    """Checks that something listens at an address like HOST:PORT, or at the one meant by `auto`.

    Args:
        address: Of a cluster, as RAY_ADDRESS has it; empty or `local` for one to be started.
        timeout_s: Time to take a connection [s].

    Raises:
        ConfigError: It is of another kind.
        TrainingError: Nothing listens there.
    """
    if address in ("", "local"):
        return
    head = address
    if address == "auto":  # the newest cluster that was started here, or one that runs here
        try:
            head = services.canonicalize_bootstrap_address(address) or ""
        except ConnectionError:
            raise _no_cluster(address, "none on this machine") from None
    scheme, separator, _ = head.partition("://")
    host, _, port = head.rpartition(":")
    if separator or not host or not port.isdigit():
        kinds = {"http": "the address of its jobs", "https": "the address of its jobs"}
        submit = f"`{program('ray')} job submit --address {address} -- ...`"
        raise ConfigError(
            expected="HOST:PORT of a cluster's head",
            found=kinds.get(scheme, "an address of another kind"),
            where=f"RAY_ADDRESS={address}",
            fix=f"submit the job by {submit}"
            if scheme in kinds
            else "set it to HOST:6379 on a node of the cluster, or unset it to use this machine "
            "alone",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        reason = "no answer" if isinstance(error, TimeoutError) else told
        last = f"nothing at {head}, where the last one was: " if address == "auto" else ""
        raise _no_cluster(address, f"{last}{reason}") from None


def _local_arguments(scaling: ScalingConfig, object_store_bytes: int) -> dict[str, Any]:
    """How `ray.init` starts a local cluster."""
    if "RAY_AUTH_TOKEN" not in os.environ and not _may_read(Path.home() / ".ray" / "auth_token"):
        # Ray would write one there for good, where a home can be written at all.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    arguments: dict[str, Any] = {
        "address": "local",
        # One machine may have fewer cores than workers: they then share them.
        "num_cpus": max(num_cores(), scaling.num_workers * scaling.cpus_per_worker),
        "object_store_memory": object_store_bytes,
        # The dashboard takes seconds to start, and nobody is told of it.
        "include_dashboard": False,
    }
    if (folder := short_folder()) is not None:
        arguments["_temp_dir"] = str(folder)
    return arguments


def short_folder() -> Path | None:
    """Folder for Ray's files, if its own choice cannot be used for sockets; else None.

    Raises:
        ConfigError: There is none.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    if _fits(Path(chosen)) and _may_write(Path(chosen) / "ray"):
        return None
    for place in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - others may write there, too
        folder = Path(place) / f"ray-{os.getuid()}"
        if _may_write(folder):
            return folder
    raise ConfigError(
        expected="a folder for Ray's sockets that can be written, with a path of at most "
        f"{_LONGEST_SOCKET - len(_SOCKET)} characters",
        found="none",
        where=f"TMPDIR={chosen}",
        fix="set RAY_TMPDIR to one",
    )


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) + len(_SOCKET) <= _LONGEST_SOCKET


def _may_write(folder: Path) -> bool:
    """Whether this user may make files in a folder, or the folder itself."""
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def _may_read(file: Path) -> bool:
    return os.access(file, os.R_OK)


def _start(address: str, arguments: dict[str, Any]) -> None:
    """Starts Ray, from the root folder if the working directory was removed, even meanwhile."""
    leave_removed_folder()  # in which no process of a cluster could start
    try:
        _init(address, arguments)
    except TrainingError:
        if not leave_removed_folder():
            raise
        ray.shutdown()
        _init(address, arguments)


def _init(address: str, arguments: dict[str, Any]) -> None:
    """Calls `ray.init`; what it raises becomes one line with the fix."""
    limit_s = START_S if address in ("", "local") else JOIN_S
    with TemporaryFile() as printed:
        try:
            with _printing_to(printed), time_limit(limit_s), _hurried_by_signals():
                ray.init(**arguments)
        except OutOfTimeError:
            found = f"none within {limit_s:g} s"
            if address in ("", "local"):
                raise _not_started(found) from None
            raise _no_cluster(address, found) from None
        except Exception as error:
            printed.seek(0)
            raise _clear(address, error, printed.read().decode(errors="replace")) from error


@contextmanager
def _printing_to(file: IO[bytes]) -> Iterator[None]:
    """Leads standard error into a file: Ray prints each of its vain tries there, beside Python.

    What turns on a terminal meanwhile still does.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as before:
        shown = console.file if console.is_terminal else None
        if shown is not None:
            console.file = before
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before.fileno(), 2)
            if shown is not None:
                console.file = shown


def _clear(address: str, error: Exception, printed: str) -> StemCompleteError:
    text = " ".join(f"{error} {error.__cause__ or error.__context__ or ''}".split())
    if "Version mismatch" in text:
        cluster, _, own = text.partition("Version mismatch:")[2].partition("This process on")
        version = cluster.partition("Ray:")[2].split()[0]
        return TrainingError(
            expected=f"the versions of this process ({_versions(own)})",
            found=_versions(cluster),
            where=f"the Ray cluster at {address}",
            fix=f"start it from this environment, or install ray=={version} and that Python here",
        )
    if isinstance(error, ray.exceptions.AuthenticationError) or "Unauthenticated" in printed:
        return TrainingError(
            expected="the token of the cluster",
            found="none, or another one",
            where=f"the Ray cluster at {address}",
            fix="copy ~/.ray/auth_token of its head here and set RAY_AUTH_MODE=token",
        )
    if "Could not find any running Ray" in text:
        return _no_cluster(address, "none on this machine")
    if address not in ("", "local"):
        return _no_cluster(address, f"no answer of its head ({text.partition('. ')[0]})")
    return _not_started(text if len(text) < 300 else f"{text[:297]}...")


def _not_started(found: str) -> TrainingError:
    return TrainingError(
        expected="a local Ray cluster",
        found=found,
        where="Ray",
        fix="see the logs in the folder ray/session_latest/logs below TMPDIR or /tmp, try again "
        "when this machine has less to do, or do without Ray: `train --local`, `complete` without "
        "--ray",
    )


def _versions(text: str) -> str:
    """`Ray 2.60.0, Python 3.11.7` of Ray's lines."""
    ray_version, python = (text.partition(f"{name}:")[2].split() for name in ("Ray", "Python"))
    return f"Ray {ray_version[0]}, Python {python[0]}"


def _no_cluster(address: str, found: str) -> TrainingError:
    return TrainingError(
        expected="a Ray cluster",
        found=found,
        where=f"RAY_ADDRESS={address}",
        fix=f"start one by `{program('ray')} start --head`, correct RAY_ADDRESS, or unset it to "
        "use this machine alone",
    )


@contextmanager
def _hurried_by_signals() -> Iterator[None]:
    """Shortens a `time_limit` to `STOP_S` once SIGTERM or SIGINT comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hurry(number: int, frame: FrameType | None) -> None:
        left_s, _ = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, min(left_s, STOP_S))
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    before = {number: signal.signal(number, hurry) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _processes_in_a_group_of_their_own() -> Iterator[None]:
    """Lets what Ray starts in the block hear no signals to the process group of this program.

    `timeout`, `kill %1` and others signal whole groups. This program then stops in order, which it
    could not do if its cluster were ended beside it.
    """
    if not ray_utils.detect_fate_sharing_support():  # else Ray ends them by their group
        yield
        return
    started_by = services.ConsolePopen
    services.ConsolePopen = partial(started_by, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = started_by


@contextmanager
def _signals_can_wait() -> Iterator[None]:
    """Leaves signals to this program's handlers while Ray starts, which they do not interrupt.

    Ray sets a handler that raises SystemExit. From within its start that leaves processes behind,
    or crashes this one. Its C++ code sets another one.
    """
    set_handler, ray_utils.set_sigterm_handler = ray_utils.set_sigterm_handler, lambda _: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = set_handler
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

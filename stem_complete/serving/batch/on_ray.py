"""Units of work on Ray: actors, perhaps with a model, and our own loop that hands them units.

Ray Data is not used: it has no limit on the time of a unit, retries blocks rather than scans, hangs
when actors take all CPUs, and ends a job that is silent for half an hour. Here every unit is known
by name, and each actor has one call under way and one waiting, so that none is idle between two. A
call is of as many units as take half a second, as it costs the driver and Ray some milliseconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple

import ray
import torch

from stem_complete.config.schema import ScalingConfig
from stem_complete.console import say
from stem_complete.credentials import Handover
from stem_complete.distributed import num_cores
from stem_complete.errors import (
    ArtifactError,
    ConfigError,
    Failure,
    StemCompleteError,
    TrainingError,
)
from stem_complete.inference.card import CARD_FILE, ModelCard, read_card
from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import load_completer
from stem_complete.launch.cluster import ray_cluster
from stem_complete.serving.batch.units import AnyJob, AnyWorker, R, U
from stem_complete.serving.batch.work_queue import Settled, WorkItem, WorkQueue
from stem_complete.vocabulary import WEIGHTS_FILE

POLL_S = 0.5
"""Longest pause between looks at deadlines."""

CLOSE_S = 5.0
"""Time that actors have to tidy up."""

SILENCE_S = 30.0
"""Without a worker for so long, the user is told what the cluster has."""

CALL_S = 0.5
"""Time that a call takes, unless its first parcel takes longer."""

_MOST_IN_CALL = 64
_MOST_FAILED_STARTS = 3

_DIED = Failure(
    "its worker died twice: killed, out of memory, or lost with its node",
    "give workers more memory, or complete large scans with fewer workers",
)


class RayWorkers:
    """Actors on a Ray cluster, one CPU each and perhaps a GPU.

    Args:
        model: Folder of the model; nodes that do not see it get a copy. None: they need none.
        device: "cpu" or "cuda".
        precision: As of `Completer`.
        num_workers: None: one for each core of a local cluster; of another one as many as there is
            room for but one.
        use_gpu: Whether each has a GPU.
        address: HOST:PORT of a cluster; None: the one of the job or of RAY_ADDRESS, or a local one.

    Raises:
        ArtifactError: There is no model.
    """

    def __init__(
        self,
        model: Path | None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        num_workers: int | None = None,
        use_gpu: bool = False,
        address: str | None = None,
    ) -> None:
        self.model, self.device, self.precision = model and model.absolute(), device, precision
        self.num_workers, self.use_gpu, self.address = num_workers, use_gpu, address
        self.card = None if model is None else read_card(model)

    def run(
        self, job: AnyJob[U, R], parcels: Sequence[tuple[U, ...]], timeout_s: float
    ) -> Iterator[tuple[tuple[U, ...], list[R]]]:
        """See `Workers`."""
        if not parcels:
            return
        # More than the workers take, as Ray's own work needs room.
        local = ScalingConfig(num_workers=(self.num_workers or num_cores()) + 1)
        with ray_cluster(local, self.address):
            crew = _Crew(self, job.absolute(), parcels, timeout_s)
            try:
                yield from crew.work()
            finally:
                crew.dismiss()

    def size(self) -> int:
        """Number of workers, on the cluster that this process has joined.

        Raises:
            ConfigError: The cluster has no GPU.
        """
        has = ray.cluster_resources()
        if self.use_gpu and not has.get("GPU"):
            raise ConfigError(
                expected="a GPU for each worker",
                found="none in the cluster",
                where="--gpu",
                fix="leave it out, or add nodes with GPUs",
            )
        room = has.get("GPU", 0) if self.use_gpu else has.get("CPU", 0) - 1
        return self.num_workers or max(1, int(room))


class RayPool(RayWorkers):
    """Workers that complete scans; see `RayWorkers`.

    Args:
        model: Folder of the model.
        options: See `RayWorkers`.
    """

    card: ModelCard

    def __init__(self, model: Path, **options: Any) -> None:
        super().__init__(model, **options)
        self.batch_size = GPU_BATCH_SIZE if self.device == "cuda" else 1


class _Model(NamedTuple):
    """A model for workers on other nodes: its files by name, in Ray's object store."""

    folder: Path
    sha256: str
    files: Any  # a list, as Ray would fetch a bare reference with every call


class RayWorker:
    """Body of an actor."""

    def __init__(
        self,
        model: _Model | None,
        device: str,
        precision: str,
        job: AnyJob[Any, Any],
        credentials: Handover,
    ) -> None:
        credentials.accept()
        self._given = model, device, precision, job
        self._worker: AnyWorker[Any, Any] | None = None

    def begin(self) -> Exception | None:
        """Loads the model; returns why it cannot be loaded, as Ray would wrap what is raised."""
        model, device, precision, job = self._given
        torch.set_num_threads(1)  # its CPU; another number would change the last bits
        try:
            completer = model and load_completer(_fetched(model), device, precision=precision)
            self._worker = job.worker(completer)
        except (StemCompleteError, OSError) as error:
            return error
        return None

    def close(self) -> None:
        """Removes what was fetched from object stores."""
        if self._worker is not None:
            self._worker.close()

    def complete(self, *parcels: tuple[Any, ...]) -> list[list[Any]] | Exception:
        """Outcomes of the first parcels, as many as there was time for, or what ends the batch."""
        assert self._worker is not None
        found = []
        began_s = time.monotonic()
        try:
            for parcel in parcels:
                found.append(self._worker.complete(parcel))
                if time.monotonic() - began_s > CALL_S:
                    break
        except (StemCompleteError, OSError) as error:
            return error
        return found


def _fetched(model: _Model) -> Path:
    """The folder of a model on this node, which keeps it by its hash."""
    kept = Path(tempfile.gettempdir(), f"stem-complete-models-{os.getuid()}", model.sha256)
    for folder in (model.folder, kept):
        with suppress(ArtifactError):
            if read_card(folder).weights_sha256 == model.sha256:
                return folder
    (reference,) = model.files
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as draft:
        for name, content in ray.get(reference).items():
            Path(draft, name).write_bytes(content)
        with suppress(OSError):  # another worker of this node was quicker
            Path(draft).rename(kept)
    return kept


class _Call(NamedTuple):
    """Work that an actor has."""

    reference: Any
    items: list[WorkItem[Any, Any]]


class _Member:
    """An actor, what it has to do, and since when it does the first of that."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.starting: Any = actor.begin.remote()
        self.calls: deque[_Call] = deque()
        self.since_s = time.monotonic()

    @property
    def waits_for(self) -> Any:
        """What comes next of it; None if it has nothing to do."""
        if self.starting is not None:
            return self.starting
        return self.calls[0].reference if self.calls else None


class _Crew(Generic[U, R]):
    """All actors of a batch, and what they have not got yet."""

    def __init__(
        self,
        pool: RayWorkers,
        job: AnyJob[U, R],
        parcels: Sequence[tuple[U, ...]],
        timeout_s: float,
    ) -> None:
        self.queue = WorkQueue(job, parcels, timeout_s)
        self.parcel_s = CALL_S  # that a parcel takes, roughly
        self.num_failed_starts = 0
        self.last_sign_s = time.monotonic()
        model = None
        if pool.model is not None and pool.card is not None:
            files = {name: (pool.model / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
            model = _Model(pool.model, pool.card.weights_sha256, [ray.put(files)])
        actor = ray.remote(num_cpus=1, num_gpus=1 if pool.use_gpu else 0)(RayWorker)
        self._start: Callable[[], _Member] = lambda: _Member(
            actor.remote(model, pool.device, pool.precision, job, Handover())
        )
        self.members = [self._start() for _ in range(min(pool.size(), len(parcels)))]

    def work(self) -> Iterator[tuple[tuple[U, ...], list[R]]]:
        """Parcels as they come back, until all have.

        Raises:
            StemCompleteError: The destination cannot be written, or no worker starts.
        """
        while self.queue.num_left:
            self._hand_out()
            expected = {m.waits_for: m for m in self.members if m.waits_for is not None}
            ray.wait(list(expected), timeout=POLL_S)
            # All that are ready, or the first of the list would always come first.
            ready, _ = ray.wait(list(expected), num_returns=len(expected), timeout=0)
            for reference in ready:
                yield from self._receive(expected[reference])
            for member in list(self.members):
                yield from self._check_deadline(member)
            self._tell_of_silence()

    def dismiss(self) -> None:
        """Ends all actors."""
        with suppress(Exception):  # the cluster may be gone
            idle = [member for member in self.members if member.waits_for is None]
            ray.wait(
                [member.actor.close.remote() for member in idle],
                num_returns=len(idle),
                timeout=CLOSE_S,
            )
        for member in self.members:
            with suppress(Exception):
                ray.kill(member.actor)

    def _hand_out(self) -> None:
        for member in self.members:
            if self.queue and member.starting is None and not member.calls:
                self._give(member)
        # The last units go to whoever has nothing to do.
        for member in self.members:
            many = len(self.queue) > len(self.members)
            if many and member.starting is None and len(member.calls) == 1:
                self._give(member)

    def _give(self, member: _Member) -> None:
        if not member.calls:
            member.since_s = time.monotonic()
        share = len(self.queue) // (4 * len(self.members))  # so that all end at about the same time
        items = self.queue.take(min(int(CALL_S / self.parcel_s), share, _MOST_IN_CALL))
        # Its working folder is another one.
        absolute = [tuple(unit.absolute() for unit in item.todo) for item in items]
        reference = member.actor.complete.remote(*absolute)
        member.calls.append(_Call(reference, items))

    def _receive(self, member: _Member) -> Settled[U, R]:
        """Takes what a member was expected to give; returns what comes back."""
        began_s = member.since_s
        try:
            found = ray.get(member.waits_for)
        except ray.exceptions.RayError as error:  # it died, or its answer was lost with a node
            under_way = self._replace(member, error)
            return self.queue.fail(under_way, _DIED) if under_way else []
        self.last_sign_s = member.since_s = time.monotonic()
        if isinstance(found, Exception):
            raise found
        if member.starting is not None:
            member.starting = None
            self.num_failed_starts = 0
            return []
        took_s = (member.since_s - began_s) / len(found)
        # One that takes long, such as the first, which loads libraries, is soon forgotten.
        self.parcel_s = max(0.5 * self.parcel_s + 0.5 * took_s, 1e-3)
        items = member.calls.popleft().items
        self.queue.give_back(items[len(found) :])
        done = zip(items, found, strict=False)
        return [each for item, results in done for each in self.queue.finish(item, results)]

    def _check_deadline(self, member: _Member) -> Settled[U, R]:
        """Ends a member that takes too long; returns what comes back."""
        if member.starting is not None or not member.calls:
            return []
        items = member.calls[0].items
        limit_s = max(map(self.queue.limit_s, items)) + (CALL_S if len(items) > 1 else 0.0)
        if time.monotonic() - member.since_s <= limit_s:
            return []
        self._replace(member)
        return self.queue.time_out(items)

    def _replace(self, member: _Member, cause: Exception | None = None) -> list[WorkItem[U, R]]:
        """Puts another in the place of one that died or hangs.

        Returns:
            What it had under way. What waited behind that is given back.
        """
        with suppress(Exception):
            ray.kill(member.actor)
        if member.starting is not None:
            self._count_failed_start(cause)
        under_way, *behind = [call.items for call in member.calls] or [[]]
        for items in reversed(behind):
            self.queue.give_back(items)
        self.members[self.members.index(member)] = self._start()
        return under_way

    def _count_failed_start(self, cause: Exception | None) -> None:
        self.num_failed_starts += 1
        if self.num_failed_starts < _MOST_FAILED_STARTS * len(self.members):
            return
        raise TrainingError(
            expected="workers that start",
            found=str(cause).strip().splitlines()[-1] if cause else "none",
            where="Ray",
            fix="see Ray's logs of the workers, or do without --ray",
        )

    def _tell_of_silence(self) -> None:
        now = time.monotonic()
        if any(member.starting is None for member in self.members):
            self.last_sign_s = now
        elif now - self.last_sign_s > SILENCE_S:
            self.last_sign_s = now
            has = ", ".join(f"{v:g} {k}" for k, v in _free().items()) or "nothing"
            say(f"waiting for workers to start; the cluster has free: {has}")


def _free() -> dict[str, float]:
    free = ray.available_resources()
    return {name: free[name] for name in ("CPU", "GPU") if name in free}

"""Batches on Ray: actors with the model, and our own loop that hands them units.

Ray Data is not used: it has no limit on the time of a unit, retries blocks rather than scans, hangs
when actors take all CPUs, and ends a job that is silent for half an hour. Here every unit is known
by name, and each actor has one under way and one waiting, so that none is idle between two.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from stem_complete.config.schema import ScalingConfig
from stem_complete.console import format_seconds, say
from stem_complete.credentials import Handover
from stem_complete.distributed import num_cores
from stem_complete.errors import ArtifactError, ConfigError, StemCompleteError, TrainingError
from stem_complete.inference.card import CARD_FILE, read_card
from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import load_completer
from stem_complete.launch.cluster import ray_cluster
from stem_complete.serving.batch.in_process import TOO_LONG, TRIES
from stem_complete.serving.batch.sources import absolute
from stem_complete.serving.batch.units import (
    GivenUp,
    Job,
    Outcome,
    Parcel,
    Unit,
    lost,
    places_of,
    without,
)
from stem_complete.serving.batch.worker import Worker
from stem_complete.vocabulary import WEIGHTS_FILE

POLL_S = 0.5
"""Longest pause between looks at deadlines."""

CLOSE_S = 5.0
"""Time that actors have to tidy up."""

SILENCE_S = 30.0
"""Without a worker for so long, the user is told what the cluster has."""

_MOST_FAILED_STARTS = 3

_DIED = "its worker died twice: killed, out of memory, or lost with its node"
_DIED_FIX = "give workers more memory, or complete large scans with fewer workers"


class RayPool:
    """Actors on a Ray cluster, one CPU each and perhaps a GPU.

    Args:
        model: Folder of the model; nodes that do not see it get a copy.
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
        model: Path,
        *,
        device: str = "cpu",
        precision: str = "float32",
        num_workers: int | None = None,
        use_gpu: bool = False,
        address: str | None = None,
    ) -> None:
        self.model, self.device, self.precision = model.absolute(), device, precision
        self.num_workers, self.use_gpu, self.address = num_workers, use_gpu, address
        self.card = read_card(model)
        self.batch_size = GPU_BATCH_SIZE if device == "cuda" else 1

    def run(
        self, job: Job, parcels: Sequence[Parcel], timeout_s: float
    ) -> Iterator[tuple[Parcel, list[Outcome]]]:
        """See `Pool`."""
        if not parcels:
            return
        # More than the workers take, as Ray's own work needs room.
        local = ScalingConfig(num_workers=(self.num_workers or num_cores()) + 1)
        with ray_cluster(local, self.address):
            crew = _Crew(self, _absolute_job(job), parcels, timeout_s)
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


class _Model(NamedTuple):
    """A model for workers on other nodes: its files by name, in Ray's object store."""

    folder: Path
    sha256: str
    files: Any  # a list, as Ray would fetch a bare reference with every call


class RayWorker:
    """Body of an actor."""

    def __init__(
        self, model: _Model, device: str, precision: str, job: Job, credentials: Handover
    ) -> None:
        credentials.accept()
        self._given = model, device, precision, job
        self._worker: Worker | None = None

    def begin(self) -> Exception | None:
        """Loads the model; returns why it cannot be loaded, as Ray would wrap what is raised."""
        model, device, precision, job = self._given
        torch.set_num_threads(1)  # its CPU; another number would change the last bits
        try:
            self._worker = Worker(load_completer(_fetched(model), device, precision=precision), job)
        except (StemCompleteError, OSError) as error:
            return error
        return None

    def close(self) -> None:
        """Removes what was fetched from object stores."""
        if self._worker is not None:
            self._worker.close()

    def complete(self, parcel: Parcel) -> list[Outcome] | Exception:
        """Outcomes, or what ends the batch."""
        assert self._worker is not None
        try:
            return self._worker.complete(parcel)
        except (StemCompleteError, OSError) as error:
            return error

    def try_scan(self, unit: Unit, place: int) -> None:
        """See `Worker.try_scan`."""
        assert self._worker is not None
        self._worker.try_scan(unit, place)


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


class _Work(NamedTuple):
    """A parcel, or one scan of it, by its unit and place, that is only tried."""

    parcel: int
    scan: tuple[int, int] | None = None


class _Task(NamedTuple):
    """Work that an actor has."""

    reference: Any
    work: _Work


class _Member:
    """An actor, what it has to do, and since when it does the first of that."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.starting: Any = actor.begin.remote()
        self.tasks: deque[_Task] = deque()
        self.since_s = time.monotonic()

    @property
    def waits_for(self) -> Any:
        """What comes next of it; None if it has nothing to do."""
        if self.starting is not None:
            return self.starting
        return self.tasks[0].reference if self.tasks else None


class _Crew:
    """All actors of a batch, and the units that they have not got yet."""

    def __init__(
        self, pool: RayPool, job: Job, parcels: Sequence[Parcel], timeout_s: float
    ) -> None:
        self.parcels, self.timeout_s = parcels, timeout_s
        self.waiting = deque(_Work(parcel) for parcel in range(len(parcels)))
        self.num_deaths: Counter[_Work] = Counter()
        # Of parcels that killed their workers: scans to be tried singly, and what killed again.
        self.untried: dict[int, set[_Work]] = {}
        self.given_up: dict[int, list[tuple[int, GivenUp]]] = {}
        self.num_failed_starts = 0
        self.last_sign_s = time.monotonic()
        files = {name: (pool.model / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
        model = _Model(pool.model, pool.card.weights_sha256, [ray.put(files)])
        actor = ray.remote(num_cpus=1, num_gpus=1 if pool.use_gpu else 0)(RayWorker)
        self._start: Callable[[], _Member] = lambda: _Member(
            actor.remote(model, pool.device, pool.precision, job, Handover())
        )
        self.members = [self._start() for _ in range(min(pool.size(), len(parcels)))]

    def work(self) -> Iterator[tuple[Parcel, list[Outcome]]]:
        """Parcels as they come back, until all have.

        Raises:
            StemCompleteError: The destination cannot be written, or no worker starts.
        """
        num_left = len(self.parcels)
        while num_left:
            self._hand_out()
            expected = {m.waits_for: m for m in self.members if m.waits_for is not None}
            ray.wait(list(expected), timeout=POLL_S)
            # All that are ready, or the first of the list would always come first.
            ready, _ = ray.wait(list(expected), num_returns=len(expected), timeout=0)
            for reference in ready:
                for parcel, outcomes in self._receive(expected[reference]):
                    num_left -= 1
                    yield self.parcels[parcel], outcomes
            for member in list(self.members):
                for parcel, outcomes in self._check_deadline(member):
                    num_left -= 1
                    yield self.parcels[parcel], outcomes
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
            if self.waiting and member.starting is None and not member.tasks:
                self._give(member, self.waiting.popleft())
        # The last units go to whoever has nothing to do.
        for member in self.members:
            many = len(self.waiting) > len(self.members)
            if many and member.starting is None and len(member.tasks) == 1:
                self._give(member, self.waiting.popleft())

    def _give(self, member: _Member, work: _Work) -> None:
        if not member.tasks:
            member.since_s = time.monotonic()
        # Its working folder is another one.
        absolute = tuple(
            unit._replace(scans=tuple(source.absolute() for source in unit.scans))
            for unit in without(self.parcels[work.parcel], self.given_up.get(work.parcel, ()))
        )
        if work.scan is None:
            reference = member.actor.complete.remote(absolute)
        else:
            number, place = work.scan
            reference = member.actor.try_scan.remote(absolute[number], place)
        member.tasks.append(_Task(reference, work))

    def _receive(self, member: _Member) -> Iterator[tuple[int, list[Outcome]]]:
        """What became of what a member was expected to give."""
        try:
            found = ray.get(member.waits_for)
        except ray.exceptions.RayActorError as death:
            yield from self._replace(member, _DIED, _DIED_FIX, cause=death)
            return
        except ray.exceptions.RayError as error:  # its answer was lost with a node
            yield from self._replace(member, _DIED, _DIED_FIX, cause=error)
            return
        self.last_sign_s = member.since_s = time.monotonic()
        if isinstance(found, Exception):
            raise found
        if member.starting is not None:
            member.starting = None
            self.num_failed_starts = 0
            return
        work = member.tasks.popleft().work
        if work.scan is None:
            yield work.parcel, found
        else:
            self._tried(work)

    def _check_deadline(self, member: _Member) -> Iterator[tuple[int, list[Outcome]]]:
        if member.starting is not None or not member.tasks:
            return
        work = member.tasks[0].work
        limit_s = self.timeout_s * (len(self.parcels[work.parcel]) if work.scan is None else 1)
        if time.monotonic() - member.since_s > limit_s:
            reason = f"it took longer than {format_seconds(limit_s)}, {TRIES} times"
            ray.kill(member.actor)
            yield from self._replace(member, reason, TOO_LONG)

    def _replace(
        self, member: _Member, reason: str, fix: str, cause: Exception | None = None
    ) -> Iterator[tuple[int, list[Outcome]]]:
        """Puts another in the place of one that died, and gives back its units to be done again.

        The first of them was under way, and so is tried once more and then given up.
        """
        with suppress(Exception):
            ray.kill(member.actor)
        if member.starting is not None:
            self._count_failed_start(cause)
        given_up: list[_Work] = []
        for place, task in reversed(list(enumerate(member.tasks))):
            if place == 0:
                self.num_deaths[task.work] += 1
            if self.num_deaths[task.work] >= TRIES:
                given_up.append(task.work)
            else:
                self.waiting.appendleft(task.work)
        self.members[self.members.index(member)] = self._start()
        for work in given_up:
            yield from self._give_up(work, reason, fix)

    def _give_up(self, work: _Work, reason: str, fix: str) -> Iterator[tuple[int, list[Outcome]]]:
        """Lists a scan, or a parcel; but first the scans of a parcel are tried singly, once."""
        parcel = self.parcels[work.parcel]
        if work.scan is not None:
            number, place = work.scan
            found = self.given_up.setdefault(work.parcel, [])
            found.append((number, GivenUp(place, reason, fix)))
            self._tried(work)
            return
        scans = [_Work(work.parcel, scan) for scan in places_of(parcel)]
        if len(scans) == 1 or work.parcel in self.untried:
            yield work.parcel, lost(parcel, reason, fix)
            return
        self.untried[work.parcel] = set(scans)
        self.waiting.extendleft(reversed(scans))

    def _tried(self, scan: _Work) -> None:
        """Gives a parcel one more try, without what kills workers, once all is tried singly."""
        untried = self.untried[scan.parcel]
        untried.remove(scan)
        if not untried:
            self.num_deaths[_Work(scan.parcel)] = TRIES - 1
            self.waiting.appendleft(_Work(scan.parcel))

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


def _absolute_job(job: Job) -> Job:
    """The job for processes with other working folders."""
    destination: Any = job.destination
    return job._replace(destination=destination._replace(folder=absolute(destination.folder)))

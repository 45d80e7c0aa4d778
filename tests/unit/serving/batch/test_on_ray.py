"""The loop that hands units to actors, with actors that die and hang as they are told."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import ray

from stem_complete.credentials import Handover
from stem_complete.data.scan_options import AS_STORED
from stem_complete.errors import ArtifactError, ConfigError, DataError, TrainingError
from stem_complete.inference import RELEASED_MODEL, Outputs, load_artifact, read_card
from stem_complete.serving.batch import on_ray
from stem_complete.serving.batch.files import CompletedFiles
from stem_complete.serving.batch.on_ray import RayPool, RayWorker, RayWorkers
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import Outcome, ScanResult, Unit
from stem_complete.serving.batch.worker import Job

DEATH = ray.exceptions.RayActorError()


class Cluster:
    """Ray as far as the loop knows it; time passes while it waits.

    Attributes:
        fates: What befalls an actor at a unit, in turn: "dies", "hangs", or an error it returns.
        starts: What befalls actors when they start: an error, or nothing.
        tried: How often each unit was begun.
        kills: Whether units kill the actor that has them.
        complete: What becomes of units else.
        most_done: Parcels of a call that there is time for.
    """

    exceptions = ray.exceptions

    def __init__(self, num_cpus=3, **fates):
        self.resources = {"CPU": num_cpus}
        self.fates = {name: deque(each) for name, each in fates.items()}
        self.starts, self.tried, self.now_s = deque(), Counter(), 0.0
        self.actors, self.answers, self.most_waiting, self.most_in_call = [], {}, 0, 0
        self._numbers, self.closed = count(), []
        self.kills, self.complete, self.most_done = lambda parcel: False, _completed, 99

    def monotonic(self):
        return self.now_s

    def cluster_resources(self):
        return self.resources

    available_resources = cluster_resources

    def put(self, value):
        return "reference"

    def remote(self, **options):
        return lambda cls: SimpleNamespace(remote=self.start)

    def start(self, *_):
        actor = SimpleNamespace(todo=deque(), dead=False, hangs=False)
        actor.begin = SimpleNamespace(remote=lambda: self.ask(actor, None))
        actor.close = SimpleNamespace(remote=lambda: self.closed.append(actor))
        actor.complete = SimpleNamespace(remote=lambda *parcels: self.ask(actor, parcels))
        self.actors.append(actor)
        return actor

    def ask(self, actor, parcels):
        reference = next(self._numbers)
        if actor.dead:
            self.answers[reference] = DEATH
        else:
            actor.todo.append((reference, parcels))
            self.most_in_call = max(self.most_in_call, len(parcels or ()))
            self.most_waiting = max(self.most_waiting, len(actor.todo))
        return reference

    def kill(self, actor):
        actor.dead = True
        while actor.todo:
            self.answers[actor.todo.popleft()[0]] = DEATH

    def wait(self, references, timeout, num_returns=1):
        self.now_s += timeout
        for actor in [actor for actor in self.actors if actor.todo and timeout]:
            self.work(actor)
        return [r for r in references if r in self.answers][:num_returns], []

    def work(self, actor):
        """One step of an actor: its start, or all parcels of a call."""
        if actor.hangs:
            return
        reference, parcels = actor.todo[0]
        if parcels is None:
            fate = self.starts.popleft() if self.starts else None
            self.end(actor, reference, fate, fate)
            return
        found = []
        for parcel in parcels[: self.most_done]:
            if self.kills(parcel):
                self.kill(actor)
                return
            name = parcel[0].name
            self.tried[name] += 1
            waiting = self.fates.get(name)
            if fate := waiting.popleft() if waiting else None:
                self.end(actor, reference, fate, fate)
                return
            found.append(self.complete(parcel))
        self.end(actor, reference, None, found)

    def end(self, actor, reference, fate, answer):
        if fate == "hangs":
            actor.hangs = True
        elif fate == "dies":
            self.kill(actor)
        else:
            actor.todo.popleft()
            self.answers[reference] = answer

    def get(self, reference):
        answer = self.answers[reference]
        if answer is DEATH or isinstance(answer, ray.exceptions.RayError):
            raise answer
        return answer


def _completed(parcel):
    done = ScanResult("done", {})
    return [
        Outcome(tuple(dict(unit.lost).get(n, done) for n in range(len(unit.scans))), {}, "w")
        for unit in parcel
    ]


@pytest.fixture
def run(monkeypatch):
    def run(cluster, num=6, *, timeout_s=10.0, in_unit=1, **options):
        monkeypatch.setattr(on_ray, "ray", cluster)
        monkeypatch.setattr(on_ray, "time", cluster)
        monkeypatch.setattr(on_ray, "ray_cluster", lambda *_: nullcontext())
        destination = CompletedFiles("out", ".tif", Outputs())
        job = Job(destination, AS_STORED, False, {}, 1)
        parcels = [
            (
                Unit(
                    f"u{n}",
                    tuple(Source("s", name=f"s{n}.{i}") for i in range(in_unit)),
                    rows=tuple(range(in_unit)),
                ),
            )
            for n in range(num)
        ]
        pool = RayPool(RELEASED_MODEL, **options)
        found = {}
        for parcel, outcomes in pool.run(job, parcels, timeout_s):
            assert parcel[0].name not in found, "given back twice"
            found[parcel[0].name] = outcomes[0].results
        assert set(found) == {f"u{n}" for n in range(num)}
        return {
            name if in_unit == 1 else f"{name}[{place}]": result
            for name, results in found.items()
            for place, result in enumerate(results)
            if result.state != "done"
        }

    return run


def test_each_unit_is_done_once(run):
    cluster = Cluster()
    assert run(cluster, 20) == {}
    assert set(cluster.tried.values()) == {1}
    assert len(cluster.actors) == 2  # of three CPUs one is left for Ray
    assert cluster.most_waiting == 2
    assert cluster.closed == cluster.actors
    assert all(actor.dead for actor in cluster.actors)


def test_no_unit_starts_no_ray(run):
    assert run(None, 0) == {}


def test_no_more_workers_than_units(run):
    cluster = Cluster(num_cpus=64)
    run(cluster, 3)
    assert len(cluster.actors) == 3


def test_a_death_costs_its_unit_one_retry_and_the_waiting_one_nothing(run):
    cluster = Cluster(u0=["dies"])
    assert run(cluster, 20) == {}
    assert cluster.tried["u0"] == 2
    assert sum(cluster.tried.values()) == 21


def test_a_unit_that_kills_two_workers_is_listed(run):
    cluster = Cluster(u3=["dies", "dies"])
    (failed,) = run(cluster, 20).values()
    assert "died twice" in failed.failure.reason
    assert "memory" in failed.failure.fix
    assert cluster.tried["u3"] == 2


def test_of_a_shard_that_kills_its_workers_only_the_scans_that_do_are_listed(run):
    cluster = Cluster()

    def kills(parcel):
        (unit,) = parcel
        tried = {scan.name for n, scan in enumerate(unit.scans) if n not in dict(unit.lost)}
        return bool(tried & {"s1.2", "s1.4"})

    cluster.kills = kills
    failed = run(cluster, 3, in_unit=6)
    assert set(failed) == {"u1[2]", "u1[4]"}
    assert all("died twice" in each.failure.reason for each in failed.values())


def test_a_unit_that_hangs_is_ended_retried_and_listed(run):
    cluster = Cluster(u1=["hangs", "hangs"], u2=["hangs"])
    failed = run(cluster, 8, timeout_s=5.0)
    assert list(failed) == ["u1"]
    assert "longer than 5 s, 2 times" in failed["u1"].failure.reason
    assert "--timeout" in failed["u1"].failure.fix
    assert cluster.now_s < 60


class TestShortUnits:
    """Are given together; ten calls a second are answered here."""

    @pytest.fixture
    def cluster(self, monkeypatch):
        monkeypatch.setattr(on_ray, "POLL_S", 0.1)
        return Cluster()

    def test_as_many_as_a_call_has_time_for(self, run, cluster):
        assert run(cluster, 400) == {}
        assert set(cluster.tried.values()) == {1}
        assert 20 < cluster.most_in_call <= 64
        assert cluster.now_s < 10  # one by one it would be 20

    def test_what_there_was_no_time_for_is_given_again(self, run, cluster):
        cluster.most_done = 2
        assert run(cluster, 50) == {}
        assert set(cluster.tried.values()) == {1}

    def test_one_that_kills_its_workers_is_found_and_costs_the_others_a_retry(self, run, cluster):
        cluster.kills = lambda parcel: parcel[0].name == "u100"
        (failed,) = run(cluster, 200).values()
        assert "died twice" in failed.failure.reason
        assert max(cluster.tried.values()) <= 2

    def test_one_that_hangs_is_found(self, run, cluster):
        cluster.fates["u100"] = deque(["hangs"] * 3)
        assert list(run(cluster, 200, timeout_s=5.0)) == ["u100"]
        assert cluster.now_s < 30


def test_waiting_behind_a_long_unit_is_not_hanging(run):
    cluster = Cluster()
    slow = {f"u{n}": 3 for n in range(6)}
    work = cluster.work

    def slowly(actor):
        _, parcels = actor.todo[0]
        if parcels is not None and slow[parcels[0][0].name]:
            slow[parcels[0][0].name] -= 1
        else:
            work(actor)

    cluster.work = slowly
    assert run(cluster, timeout_s=2.1) == {}


def test_what_cannot_be_written_ends_the_batch(run):
    error = DataError(expected="room", found="none", where="disk", fix="make room")
    with pytest.raises(DataError, match="disk"):
        run(Cluster(u2=[error]))


def test_a_start_that_fails_is_tried_again(run):
    cluster = Cluster()
    cluster.starts.extend(["dies", None, "dies"])
    assert run(cluster) == {}


def test_why_no_worker_starts_is_told(run):
    cluster = Cluster()
    cluster.starts.extend(["dies"] * 99)
    with pytest.raises(TrainingError, match="workers that start"):
        run(cluster)
    cluster = Cluster()
    cluster.starts.append(ArtifactError(expected="a model", found="none", where="there", fix=""))
    with pytest.raises(ArtifactError, match="there"):
        run(cluster)


def test_waiting_for_room_is_told(run, capsys):
    cluster = Cluster(num_cpus=2)
    work = cluster.work
    cluster.work = lambda actor: work(actor) if cluster.now_s > 100 else None
    assert run(cluster) == {}
    told = capsys.readouterr().err
    assert told.count("waiting for workers to start; the cluster has free: 2 CPU") == 3


def test_gpus_are_asked_for(run):
    with pytest.raises(ConfigError, match="--gpu: expected a GPU for each worker, found none"):
        run(Cluster(), use_gpu=True, device="cuda")
    cluster = Cluster()
    cluster.resources["GPU"] = 4
    assert run(cluster, use_gpu=True, device="cuda") == {}
    assert len(cluster.actors) == 4


def test_a_node_that_does_not_see_the_model_keeps_a_copy(monkeypatch, tmp_path, model_folder):
    card = read_card(model_folder)
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    calls = []
    monkeypatch.setattr(on_ray, "ray", SimpleNamespace(get=lambda _: calls.append(1) or files))
    monkeypatch.setattr(on_ray.tempfile, "gettempdir", lambda: str(tmp_path))
    seen = on_ray._Model(model_folder, card.weights_sha256, ["reference"])
    assert on_ray._fetched(seen) == model_folder
    assert not calls
    # Another model lies where the driver has this one.
    for folder in (tmp_path / "nowhere", RELEASED_MODEL):
        kept = on_ray._fetched(seen._replace(folder=folder))
        assert load_artifact(kept).card == card
    assert len(calls) == 1
    assert [path.name for path in kept.parent.iterdir()] == [card.weights_sha256]


class Number(NamedTuple):
    """A unit of other work than completing."""

    name: str

    def absolute(self):
        return self._replace(name=f"/{self.name}")


class Spelling:
    """A job, and what does it, without a model."""

    def absolute(self):
        return self

    def worker(self, completer):
        assert completer is None
        return self

    def complete(self, parcel):
        return [unit.name for unit in parcel]

    def apart(self, unit):
        return None

    def lost(self, unit, failure):
        return f"{unit.name}: {failure}"

    def close(self):
        pass


def test_any_work_is_done_without_a_model(monkeypatch):
    cluster = Cluster(**{"/u1": ["dies", "dies"]})
    cluster.complete = Spelling().complete
    monkeypatch.setattr(on_ray, "ray", cluster)
    monkeypatch.setattr(on_ray, "time", cluster)
    monkeypatch.setattr(on_ray, "ray_cluster", lambda *_: nullcontext())
    parcels = [(Number(f"u{n}"),) for n in range(3)]
    found = dict(RayWorkers(None).run(Spelling(), parcels, 10.0))
    (lost,) = found.pop(parcels[1])
    assert found == {parcels[0]: ["/u0"], parcels[2]: ["/u2"]}
    assert lost.startswith("u1: its worker died twice")

    worker = RayWorker(None, "cpu", "float32", Spelling(), Handover())
    assert worker.begin() is None
    assert worker.complete((Number("a"), Number("b")), (Number("c"),)) == [["a", "b"], ["c"]]
    monkeypatch.setattr(on_ray, "CALL_S", -1.0)
    assert worker.complete((Number("a"), Number("b")), (Number("c"),)) == [["a", "b"]]
    worker.close()

"""Jobs: many scans, completed once each, whatever happens to the service in between."""

import asyncio
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scan_bodies as bodies
import tifffile
from starlette.testclient import TestClient
from waiting import wait_until

from stem_complete.inference import Completer
from stem_complete.serving.service.app import make_app
from stem_complete.serving.service.completing import Desk, DiedError
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.problems import Problem

NPZ = {"Content-Type": "application/x-npz"}


@pytest.fixture(scope="module")
def scans(texture, spiral) -> dict[str, bytes]:
    made = {}
    for seed in range(4):
        intensity, dwell = spiral(texture(seed, (64, 64)), "1/8")
        made[f"s{seed}"] = bodies.npz(intensity=intensity, dwell=dwell)
    return made


def make(client, scans, **params) -> str:
    answer = client.post("/v1/jobs", params=params)
    assert answer.status_code == 201, answer.text
    path = answer.headers["location"]
    for name, content in scans.items():
        sent = client.put(f"{path}/scans/{name}.npz", content=content, headers=NPZ)
        assert sent.status_code == 201, sent.text
    return path


def ended(client, path) -> dict:
    told: dict = {}

    def is_over() -> bool:
        told.update(client.get(path).json())
        return told["state"] in ("done", "failed", "cancelled")

    wait_until(is_over, "the end of a job")
    return told


def test_a_job_completes_all_its_scans_as_single_requests_do(client, scans):
    path = make(client, scans, format="npy", self_check=False, png=True)
    assert client.get(path).json()["state"] == "open"
    assert client.get(path).json()["scans"] == 4
    assert client.post(f"{path}/start").status_code == 202
    told = ended(client, path)
    assert told["state"] == "done"
    assert told["failed"] == {}
    assert told["settled"] == 4
    for name, content in scans.items():
        result = client.get(f"{path}/results/{name}_completed.npy")
        single = client.post(
            "/v1/complete",
            content=content,
            headers={**NPZ, "Accept": "application/x-npy"},
            params={"self_check": False},
        )
        found, alone = (np.load(io.BytesIO(each.content)) for each in (result, single))
        np.testing.assert_allclose(found, alone, atol=1e-4 * np.ptp(alone))
        assert client.get(f"{path}/results/{name}_error.npy").status_code == 200
        assert client.get(f"{path}/results/{name}_completed.png").content[:4] == b"\x89PNG"
        about = client.get(f"{path}/results/{name}_completed.json").json()
        assert str(Path.cwd()) not in json.dumps(about)
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("file_format", ["tiff", "npy", "ome-zarr"])
def test_a_scan_of_a_job_comes_as_a_single_completion_and_all_as_zip(client, scans, file_format):
    path = make(client, {"a": scans["s0"]}, format=file_format)
    assert client.get(f"{path}/scans/a.npz").status_code == 404
    assert client.get(f"{path}/results").status_code == 404
    client.post(f"{path}/start")
    told = ended(client, path)
    assert told["completed"] == ["a"]
    accept = {"Accept": "application/x-npz"}
    found = client.get(f"{path}/scans/a.npz", headers=accept)
    single = client.post("/v1/complete", content=scans["s0"], headers=NPZ | accept)
    with np.load(io.BytesIO(found.content)) as ours, np.load(io.BytesIO(single.content)) as alone:
        assert set(ours.files) == set(alone.files) == {"image", "error", "scan", "dwell", "about"}
        for name in ("image", "error", "scan", "dwell"):
            scale = np.nanmax(alone[name])
            np.testing.assert_allclose(ours[name], alone[name], atol=1e-3 * scale, err_msg=name)
        about, expected = (json.loads(each["about"].tobytes()) for each in (ours, alone))
    assert set(about) == set(expected)
    assert about["self_check"].pop("note") == expected["self_check"].pop("note")
    assert about["self_check"] == pytest.approx(expected["self_check"], rel=1e-3)
    assert about["notes"] == expected["notes"]
    assert client.get(f"{path}/scans/b").status_code == 404
    png = client.get(f"{path}/scans/a", headers={"Accept": "image/png"}, params={"show": "error"})
    assert png.content[:4] == b"\x89PNG"
    with zipfile.ZipFile(io.BytesIO(client.get(f"{path}/results").content)) as archive:
        assert archive.testzip() is None
        assert {name.split("/")[0] for name in archive.namelist()} == set(told["results"])
    image = next(name for name in told["results"] if "_completed." in name)
    if file_format == "ome-zarr":
        answer = client.get(f"{path}/results/{image}")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert f"{image}/zarr.json" in archive.namelist()


def test_two_pages_are_a_scan_and_its_dwell_map_in_a_job_too(client, example):
    intensity, dwell = example[0], 10 * example[1]
    both = bodies.tiff(np.stack([intensity, dwell]).astype(np.float32), metadata=None)
    how = {"self_check": False, "dwell_unit": "us", "full_dwell": 10}
    path = client.post("/v1/jobs", params=how).headers["location"]
    client.put(f"{path}/scans/a.tif", content=both, headers={"Content-Type": "image/tiff"})
    form = {"scan": ("x.npy", bodies.npy(intensity)), "dwell": ("y.npy", bodies.npy(dwell))}
    client.put(f"{path}/scans/b", files=form)
    client.post(f"{path}/start")
    assert ended(client, path)["failed"] == {}
    a, b = (
        tifffile.imread(io.BytesIO(client.get(f"{path}/results/{n}_completed.tif").content))
        for n in "ab"
    )
    assert a.shape == (64, 64)
    np.testing.assert_allclose(a, b, atol=1e-3 * np.ptp(b))


def test_a_bad_scan_is_refused_when_it_is_sent_and_a_bad_name_too(client, scans):
    path = make(client, {"good": scans["s0"]})
    bad = client.put(f"{path}/scans/bad.npz", content=b"PK", headers=NPZ)
    assert bad.status_code == 422
    for name in ("..npz", ".hidden", "a%00b", "x" * 200, "a_completed", "a b", "a%5Cb"):
        answer = client.put(f"{path}/scans/{name}", content=scans["s1"], headers=NPZ)
        assert answer.status_code in (404, 422), name
    assert client.get(path).json()["scans"] == 1
    again = client.put(f"{path}/scans/good.npz", content=scans["s1"], headers=NPZ)
    assert again.status_code == 200  # in the place of the one before
    assert client.get(path).json()["scans"] == 1


def test_nothing_but_results_can_be_fetched(client, scans):
    path = make(client, {"a": scans["s0"]}, self_check=False)
    client.post(f"{path}/start")
    ended(client, path)
    for name in ("job.json", "..%2Fjob.json", ".stem-complete", "%2e%2e%2fjob.json"):
        answer = client.get(f"{path}/results/{name}")
        assert answer.status_code in (404, 405), name
        assert b"made_s" not in answer.content
    for job_id in ("..", "0" * 31, "0" * 32, "..%2F..%2Fetc"):
        assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_an_empty_job_cannot_be_started_and_a_started_one_takes_no_scans(client, scans):
    path = client.post("/v1/jobs").headers["location"]
    assert client.post(f"{path}/start").status_code == 409
    client.put(f"{path}/scans/a.npz", content=scans["s0"], headers=NPZ)
    assert client.post(f"{path}/start").status_code == 202
    assert client.post(f"{path}/start").status_code == 202
    late = client.put(f"{path}/scans/b.npz", content=scans["s1"], headers=NPZ)
    assert late.status_code == 409
    assert ended(client, path)["settled"] == 1


def test_a_cancelled_job_keeps_what_is_done_and_goes_no_further(make_client, scans):
    client = make_client()
    many = {f"n{i}": scans[f"s{i % 4}"] for i in range(30)}
    path = make(client, many)
    client.post(f"{path}/start")
    wait_until(lambda: client.get(path).json()["results"], "a result")
    client.post(f"{path}/cancel")
    told = client.get(path).json()
    assert told["state"] == "cancelled"
    num = len(told["results"])
    assert 0 < num < 60
    # The next one is not held up by it.
    other = make(client, {"a": scans["s0"]}, self_check=False)
    client.post(f"{other}/start")
    assert ended(client, other)["state"] == "done"
    assert client.get(path).json()["state"] == "cancelled"
    assert len(client.get(path).json()["results"]) <= num + 4  # what was under way
    assert client.get(f"{path}/results/{told['results'][0]}").status_code == 200


def test_jobs_wait_in_the_order_in_which_they_were_started(make_client, scans):
    client = make_client()
    many = {f"n{i}": scans[f"s{i % 4}"] for i in range(12)}
    paths = [make(client, many if i == 0 else {"a": scans["s0"]}) for i in range(3)]
    for path in paths:
        client.post(f"{path}/start")
    second, third = (client.get(path).json() for path in paths[1:])
    assert (second["state"], third["state"]) == ("queued", "queued")
    assert third["position"] == second["position"] + 1
    for path in paths:
        assert ended(client, path)["state"] == "done"


def test_a_job_goes_on_when_the_service_is_started_again(make_client, scans, tmp_path, released):
    many = {f"n{i}": scans[f"s{i % 4}"] for i in range(10)}
    first = Desk(lambda: released, 4)
    with TestClient(make_app(first, tmp_path)) as client:
        path = make(client, many, format="npy", self_check=False)
        client.post(f"{path}/start")
        wait_until(lambda: client.get(path).json()["results"], "a result")
    asyncio.run(first.close())
    output = tmp_path / "jobs" / path.rsplit("/", 1)[1] / "output"
    before = {file.name: file.stat().st_mtime_ns for file in output.glob("*_completed.npy")}
    assert 0 < len(before) < 10
    client = make_client(tmp_path)
    told = ended(client, path)
    assert told["state"] == "done"
    assert len([name for name in told["results"] if name.endswith("_completed.npy")]) == 10
    after = {file.name: file.stat().st_mtime_ns for file in output.glob("*_completed.npy")}
    manifest = (output / ".stem-complete" / "manifest.jsonl").read_text()
    recorded = [name for name in before if f'"{name}"' in manifest]
    assert recorded
    # At most the one that was written when it was stopped is written again.
    assert sum(after[name] != before[name] for name in before) <= 1


def test_jobs_expire_and_their_number_is_limited(make_client, scans, tmp_path):
    client = make_client(tmp_path, limits=Limits(jobs=2, kept_s=0.0, job_scans=1))
    paths = [make(client, {"a": scans["s0"]}) for _ in range(2)]
    assert client.post("/v1/jobs").status_code == 503
    more = client.put(f"{paths[0]}/scans/b.npz", content=scans["s1"], headers=NPZ)
    assert more.status_code == 413
    remains = tmp_path / "jobs" / ("0" * 32)
    (remains / "output").mkdir(parents=True)  # of a job that was removed while it was written
    for folder in (remains / "output", remains):
        os.utime(folder, (0, 0))
    client.app.state.service.jobs.sweep()
    assert not remains.exists()
    assert client.get(paths[0]).status_code == 404
    assert client.post("/v1/jobs").status_code == 201


def test_what_is_stored_is_limited(make_client, scans):
    client = make_client(limits=Limits(stored_bytes=1000))
    path = make(client, {"a": scans["s0"]})
    client.app.state.service._stored = (-1e9, 0)  # it is measured every few seconds
    answer = client.put(f"{path}/scans/b.npz", content=scans["s1"], headers=NPZ)
    assert answer.status_code == 507


class Shaky:
    """Completers that are first not ready, then too busy, then die of one scan."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.num_cards, self.num_busy = desk, 0, 0
        self.deaths: list[str] = []

    async def complete(self, task):
        return await self.desk.complete(task)

    async def card(self):
        self.num_cards += 1
        if self.num_cards == 1:
            raise Problem(503, expected="a completer", found="none", fix="wait")
        return await self.desk.card()

    async def work(self, job, parcel):
        if self.num_busy < 2:
            self.num_busy += 1
            raise Problem(503, expected="less to do", found="more", fix="wait", retry_after_s=1)
        if any("deadly" in unit.name for unit in parcel):
            self.deaths.append(parcel[0].name)
            raise DiedError
        return await self.desk.work(job, parcel)


def test_busy_completers_are_asked_again_and_only_what_kills_them_fails(artifact, scans, tmp_path):
    card = artifact.card.model_copy(update={"calibration": None})  # and there is no error map
    shaky = Shaky(Desk(lambda: Completer(artifact._replace(card=card), "cpu"), 4))
    with TestClient(make_app(shaky, tmp_path)) as client:
        path = make(client, {"a": scans["s0"], "deadly": scans["s1"], "z": scans["s2"]})
        client.post(f"{path}/start")
        told = ended(client, path)
    asyncio.run(shaky.desk.close())
    assert told["state"] == "done"
    assert list(told["failed"]) == ["deadly"]
    assert "died twice" in told["failed"]["deadly"]
    assert len(shaky.deaths) == 2
    names = [name for name in told["results"] if name.endswith(".tif")]
    assert names == ["a_completed.tif", "z_completed.tif"]
    assert shaky.num_cards > 1


def test_a_service_without_completers_lives_but_is_not_ready(tmp_path):
    class Absent(Shaky):
        async def card(self):
            raise RuntimeError("/nowhere: no such process")

    with TestClient(make_app(Absent(None), tmp_path)) as client:
        assert client.get("/v1/health").status_code == 200
        answer = client.get("/v1/ready")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "nowhere" not in answer.text

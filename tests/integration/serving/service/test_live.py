"""Live scans: chunks in any order, previews of what is there, events, an end."""

import io
import json
import threading

import numpy as np
import pytest
import scan_bodies as bodies

from stem_complete.data.scans import PathScan
from stem_complete.scan import archimedean
from stem_complete.serving.service.limits import Limits

SHAPE = (64, 64)


@pytest.fixture(scope="module")
def path():
    return archimedean(SHAPE, "1/8")


@pytest.fixture(scope="module")
def intensity(texture, path) -> np.ndarray:
    columns, rows = path.positions.numpy().round().astype(int).clip(0, 63).T
    return (100 + 20 * texture(3, SHAPE))[rows, columns]


@pytest.fixture(scope="module")
def rows(path, intensity) -> np.ndarray:
    return np.column_stack([path.positions, path.dwell, intensity]).astype("<f4")


@pytest.fixture(scope="module")
def expected(released, path, rows):
    scan = PathScan(rows[:, :2], rows[:, 2], rows[:, 3], SHAPE)
    return released.complete_scan(scan)


def begin(client, columns=("x", "y", "dwell", "intensity"), **known) -> str:
    answer = client.post("/v1/scans", json={"shape": SHAPE, "columns": list(columns), **known})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def image(client, path, **params) -> np.ndarray:
    answer = client.get(f"{path}/preview", headers={"Accept": "application/x-npy"}, params=params)
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def events(text: str) -> list[tuple[str, dict]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_chunks_out_of_order_and_resent_give_the_scan(client, rows, expected):
    path = begin(client)
    chunks = np.array_split(rows, 7)
    order = np.random.default_rng(0).permutation(7)
    for number in [*order, *order[:3]]:
        answer = client.put(f"{path}/chunks/{number}", content=chunks[number].tobytes())
        assert answer.status_code in (200, 201), answer.text
    again = client.put(f"{path}/chunks/0", content=chunks[0].tobytes())
    assert again.status_code == 200
    assert again.json()["new"] is False
    assert client.get(path).json()["chunks"] == 7
    found = image(client, path)
    np.testing.assert_allclose(found, expected.image, atol=1e-3 * np.ptp(expected.image))


def test_a_path_that_is_sent_before_gives_the_same(client, path, intensity, expected):
    live = begin(client, ["intensity"])
    early = client.put(f"{live}/chunks/0", content=b"0000", params={"first": 0})
    assert early.status_code == 409
    x, y = path.positions.numpy().T
    content = bodies.npz(x=x, y=y, dwell=path.dwell.numpy(), shape=np.array(SHAPE))
    sent = client.put(
        f"{live}/path", content=content, headers={"Content-Type": "application/x-npz"}
    )
    assert sent.status_code == 204, sent.text
    first = 0
    for number, chunk in enumerate(np.array_split(intensity.astype("<f4"), 3)):
        params = {"first": first}
        answer = client.put(f"{live}/chunks/{number}", content=chunk.tobytes(), params=params)
        assert answer.status_code == 201, answer.text
        first += len(chunk)
    beyond = client.put(f"{live}/chunks/9", content=b"0000", params={"first": first})
    assert beyond.status_code == 422
    assert client.put(f"{live}/path", content=content).status_code in (409, 415)
    found = image(client, live)
    np.testing.assert_allclose(found, expected.image, atol=2e-2 * np.ptp(expected.image))


def test_a_chunk_that_differs_or_is_no_rows_is_refused(client, rows):
    path = begin(client)
    content = rows[:50].tobytes()
    assert client.put(f"{path}/chunks/0", content=content).status_code == 201
    other = client.put(f"{path}/chunks/0", content=rows[50:100].tobytes())
    assert other.status_code == 409
    for number, wrong in (("1", content[:-2]), ("1", b""), ("-1", content), ("999999", content)):
        answer = client.put(f"{path}/chunks/{number}", content=wrong)
        assert answer.status_code in (413, 422), number
    assert client.put(f"{path}/chunks/x", content=content).status_code == 422
    assert client.get(path).json()["chunks"] == 1


def test_the_same_chunk_from_many_clients_at_once_is_there_once(client, rows):
    path = begin(client)
    answers = []

    def send() -> None:
        answers.append(client.put(f"{path}/chunks/0", content=rows.tobytes()).status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 7 + [201]


def test_a_scan_is_finished_once_all_chunks_are_there(client, rows):
    path = begin(client)
    chunks = np.array_split(rows, 4)
    for number in (0, 1, 3):
        client.put(f"{path}/chunks/{number}", content=chunks[number].tobytes())
    refused = client.post(f"{path}/finish", json={"chunks": 4})
    assert refused.status_code == 409
    assert "missing: 2" in refused.json()["found"]
    assert client.get(path).json()["missing"] == [2]
    client.put(f"{path}/chunks/2", content=chunks[2].tobytes())
    assert client.post(f"{path}/finish", json={"chunks": 4}).json()["finished"]
    late = client.put(f"{path}/chunks/4", content=chunks[0].tobytes())
    assert late.status_code == 409
    resent = client.put(f"{path}/chunks/2", content=chunks[2].tobytes())
    assert resent.status_code == 200


def test_a_preview_is_known_by_its_tag_and_made_once(client, rows):
    path = begin(client)
    early = client.get(f"{path}/preview")
    assert early.status_code == 422
    client.put(f"{path}/chunks/0", content=rows.tobytes())
    before = client.get("/metrics").text
    first = client.get(f"{path}/preview")
    again = client.get(f"{path}/preview", headers={"Accept": "image/png"})
    tag = first.headers["etag"]
    assert again.headers["etag"] == tag == '"1"'
    same = client.get(f"{path}/preview", headers={"If-None-Match": tag})
    assert same.status_code == 304

    def num(text: str) -> float:
        line = next(x for x in text.split("\n") if x.startswith("stem_complete_batch_size_count"))
        return float(line.split()[1])

    assert num(client.get("/metrics").text) == num(before) + 1


def test_events_tell_of_previews_and_of_the_end(client, rows):
    path = begin(client)
    chunks = np.array_split(rows, 3)
    texts: list[str] = []
    watcher = threading.Thread(target=lambda: texts.append(client.get(f"{path}/events").text))
    watcher.start()
    for number, chunk in enumerate(chunks):
        client.put(f"{path}/chunks/{number}", content=chunk.tobytes())
        image(client, path)
    client.post(f"{path}/finish", json={"chunks": 3})
    watcher.join(60)
    found = events(texts[0])
    assert found[-1] == ("finished", {"version": 3})
    previews = [data for name, data in found if name == "preview"]
    assert previews[-1]["version"] == 3
    assert [each["version"] for each in previews] == sorted({each["version"] for each in previews})
    assert previews[-1]["coverage"] == pytest.approx(1 / 8, rel=0.01)


def test_events_of_a_scan_that_is_removed_end(client, rows):
    path = begin(client)
    texts: list[str] = []
    watcher = threading.Thread(target=lambda: texts.append(client.get(f"{path}/events").text))
    watcher.start()
    client.delete(path)
    watcher.join(60)
    assert not watcher.is_alive()
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": [64, 64], "columns": ["x", "intensity"]},
        {"shape": [64, 64], "columns": ["x", "y"]},
        {"shape": [64, 64], "columns": ["intensity", "intensity"]},
        {"shape": [64, 64], "columns": ["z"]},
        {"shape": [-64, 64]},
        {"shape": [100_000, 100_000]},
        {"shape": [64, 64], "unknown": 1},
        {"shape": "64"},
        {},
    ],
)
def test_settings_that_make_no_sense_are_refused(client, settings):
    answer = client.post("/v1/scans", json=settings)
    assert answer.status_code in (413, 422)
    assert answer.json()["fix"]


def test_scans_that_nobody_touches_are_removed(make_client, rows, tmp_path):
    client = make_client(tmp_path, limits=Limits(kept_s=0.0, live_scans=1))
    path = begin(client)
    answer = client.post("/v1/scans", json={"shape": SHAPE})
    assert answer.status_code == 503
    client.app.state.service.live.sweep()
    assert client.get(path).status_code == 404


def test_live_scans_are_listed_the_newest_first(client):
    first, second = begin(client, title="a"), begin(client, title="b")
    listed = [each["id"] for each in client.get("/v1/scans").json()]
    assert first.rsplit("/", 1)[1] in listed
    assert second.rsplit("/", 1)[1] in listed

"""One scan in, one completion out: the same as the completer gives, in each format."""

import io
import json
import zipfile

import imagecodecs
import numpy as np
import pytest
import scan_bodies as bodies
import tifffile

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.serving.service.access import new_token
from stem_complete.serving.service.limits import Limits

NPZ = {"Content-Type": "application/x-npz"}


@pytest.fixture(scope="module")
def body(example) -> bytes:
    intensity, dwell = example
    return bodies.npz(intensity=intensity, dwell=dwell)


@pytest.fixture(scope="module")
def expected(released, example):
    intensity, dwell = example
    scan = RasterScan(intensity, dwell)
    return released.complete_scan(scan, check=released.self_check(scan))


@pytest.fixture(scope="module")
def expected_of_samples(released, example):
    columns = bodies.samples(*example)
    positions = np.column_stack([columns["x"], columns["y"]])
    scan = PathScan(positions, columns["dwell"], columns["intensity"], example[1].shape)
    return released.complete_scan(scan, check=released.self_check(scan))


def arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    "name", ["npz", "npy of two", "tiff of two pages", "csv", "npz of samples", "parquet"]
)
def test_the_completion_is_that_of_the_completer_whatever_the_body(
    client, example, expected, expected_of_samples, name
):
    if name in ("csv", "parquet", "npz of samples"):
        expected = expected_of_samples
    media, content = bodies.every(*example)[name]
    answer = client.post("/v1/complete", content=content, headers={"Content-Type": media})
    assert answer.status_code == 200, answer.text
    found = arrays(answer.content)
    contrast = np.ptp(expected.image)
    np.testing.assert_allclose(found["image"], expected.image, atol=1e-4 * contrast)
    np.testing.assert_allclose(found["error"], expected.error, atol=1e-3 * contrast)
    assert found["dwell"].mean() == pytest.approx(example[1].mean(), rel=1e-4)
    about = json.loads(found["about"].tobytes())
    assert about["self_check"]["num_pixels"] > 0
    assert about["model_sha256"]
    assert answer.headers["x-request-id"]


def test_each_format_holds_the_same_image(client, body, expected):
    def answer(accept: str, **params) -> bytes:
        got = client.post(
            "/v1/complete", content=body, headers={**NPZ, "Accept": accept}, params=params
        )
        assert got.status_code == 200, got.text
        assert got.headers["content-type"] == accept
        return got.content

    np.testing.assert_array_equal(np.load(io.BytesIO(answer("application/x-npy"))), expected.image)
    np.testing.assert_array_equal(
        tifffile.imread(io.BytesIO(answer("image/tiff", show="error"))), expected.error
    )
    png = imagecodecs.png_decode(answer("image/png"))
    assert np.corrcoef(png.ravel(), expected.image.ravel())[0, 1] > 0.99
    assert json.loads(answer("application/json"))["shape"] == [64, 64]
    with zipfile.ZipFile(io.BytesIO(answer("application/zip"))) as archive:
        names = archive.namelist()
        attributes = json.loads(archive.read("completed.ome.zarr/zarr.json"))["attributes"]
    assert any(name.startswith("completed.ome.zarr/0/c/") for name in names)
    assert attributes["ome"]["version"] == "0.5"


def test_a_form_takes_a_dwell_map_or_a_path_beside_the_scan(
    client, example, expected, expected_of_samples
):
    intensity, dwell = example
    contrast = np.ptp(expected.image)
    raster = {
        "scan": ("a.tif", bodies.tiff(intensity.astype(np.float32)), "image/tiff"),
        "dwell": ("b.npy", bodies.npy(dwell), "application/octet-stream"),
    }
    columns = bodies.samples(intensity, dwell)
    measured = columns.pop("intensity")
    along = {
        "scan": ("a.npy", bodies.npy(measured), "application/octet-stream"),
        "path": ("p.npz", bodies.npz(**columns, shape=np.array(dwell.shape)), ""),
    }
    for files, wanted in ((raster, expected), (along, expected_of_samples)):
        answer = client.post("/v1/complete", files=files)
        assert answer.status_code == 200, answer.text
        found = arrays(answer.content)["image"]
        np.testing.assert_allclose(found, wanted.image, atol=1e-4 * contrast)


def test_what_is_not_asked_for_is_not_done(client, body):
    params = {"error_map": False, "self_check": False}
    answer = client.post("/v1/complete", content=body, headers=NPZ, params=params)
    found = arrays(answer.content)
    assert "error" not in found
    assert json.loads(found["about"].tobytes())["self_check"] is None
    refused = client.post(
        "/v1/complete",
        content=body,
        headers={**NPZ, "Accept": "image/png"},
        params={**params, "show": "error"},
    )
    assert refused.status_code == 422


BAD = {
    "an empty body": (b"", {}, 422),
    "no scan": (bodies.npz(other=np.zeros((64, 64))), {}, 422),
    "too small": (bodies.npz(intensity=np.random.default_rng(0).random((16, 16))), {}, 422),
    "too many pixels": (bodies.npz(intensity=np.zeros((700, 700), np.float32)), {}, 413),
    "too large a shape": (
        bodies.npz(x=np.arange(9.0), y=np.arange(9.0), intensity=np.arange(9.0)),
        {"shape": "99999,99999"},
        413,
    ),
    "a shape in the file": (
        bodies.npz(
            x=np.arange(9.0),
            y=np.arange(9.0),
            intensity=np.arange(9.0),
            shape=np.array([99_999, 99_999]),
        ),
        {},
        413,
    ),
    "positions far away": (
        bodies.npz(x=np.array([0.0, 1e9]), y=np.array([0.0, 1e9]), intensity=np.array([1.0, 2.0])),
        {},
        422,
    ),
    "infinite": (bodies.npz(intensity=np.full((64, 64), np.inf)), {}, 422),
    "constant": (bodies.npz(intensity=np.ones((64, 64))), {}, 422),
    "an unknown parameter": (b"", {"modell": "x"}, 422),
    "a parameter that is no number": (b"", {"step": "wide"}, 422),
    "a damaged member": (bodies.npz(intensity=np.eye(64))[:-200], {}, 422),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_line_with_the_fix(client, name):
    content, params, status = BAD[name]
    answer = client.post("/v1/complete", content=content, headers=NPZ, params=params)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert all(told[key] for key in ("expected", "found", "fix", "where", "request_id"))
    assert "\n" not in told["detail"]
    for leak in ("/tmp", "Traceback", "stem-complete-", ".py"):
        assert leak not in answer.text


def test_a_format_that_is_not_known_is_refused_before_the_body_is_read(client):
    answer = client.post("/v1/complete", content=b"x", headers={"Content-Type": "video/mp4"})
    assert answer.status_code == 415
    assert "image/tiff" in answer.headers["accept-post"]
    answer = client.post("/v1/complete", content=b"x", headers={**NPZ, "Accept": "text/html"})
    assert answer.status_code == 406


def test_a_body_is_refused_by_its_length_and_also_without_one(client):
    large = b"0" * (9 * 2**20)
    announced = client.post("/v1/complete", content=large, headers=NPZ)
    streamed = client.post("/v1/complete", content=iter([large]), headers=NPZ)
    form = client.post("/v1/complete", files={"scan": ("a.npy", large)})
    settings = client.post("/v1/scans", content=large[: 2**21])
    found = (announced, streamed, form, settings)
    assert [each.status_code for each in found] == [413] * 4
    assert not list((client.app.state.service.storage / "incoming").iterdir())


def test_health_model_examples_page_and_metrics(client, body):
    assert client.get("/v1/health").json()["status"] == "ok"
    assert client.get("/v1/ready").json()["status"] == "ready"
    card = client.get("/v1/model").json()
    assert card["has_error_map"]
    assert card["name"] == client.get("/v1/ready").json()["model"] == "released"
    assert "trained" in card["card"]
    page = client.get("/")
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    one = client.get("/v1/examples").json()[0]
    scan = arrays(client.get(one["scan"]).content)
    assert scan["intensity"].shape == scan["dwell"].shape == scan["truth"].shape == (512, 512)
    assert client.get("/v1/examples/4").status_code == 404
    client.post("/v1/complete", content=body, headers=NPZ)
    figures = client.get("/metrics").text
    for name in (
        "requests_total",
        "request_seconds",
        "batch_size",
        "queue_seconds",
        "queue_length",
    ):
        assert f"stem_complete_{name}" in figures
    assert 'route="/v1/complete",status="200"' in figures


def test_an_example_can_be_completed_as_it_is(make_client):
    client = make_client()
    content = client.get("/v1/examples/1").content
    answer = client.post("/v1/complete", content=content, headers=NPZ)
    found, scan = arrays(answer.content), arrays(content)
    error = found["image"] - scan["truth"]
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.ptp(scan["truth"])


def test_paths_that_are_none_and_methods_that_are_wrong_are_problems_too(client):
    for answer in (client.get("/v1/nothing"), client.get("/v1/complete"), client.get("/x/../y")):
        assert answer.status_code in (404, 405)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_id_is_given_back_unless_it_is_odd(client):
    assert (
        client.get("/v1/health", headers={"X-Request-Id": "a-1"}).headers["x-request-id"] == "a-1"
    )
    odd = client.get("/v1/health", headers={"X-Request-Id": "a b\t"}).headers["x-request-id"]
    assert odd != "a b"


def test_a_token_is_asked_for_where_there_is_one(make_client, body):
    token, its_hash = new_token()
    client = make_client(token_hashes=[its_hash])
    assert client.get("/v1/health").status_code == 200
    assert client.get("/").status_code == 200
    for path in ("/v1/model", "/metrics", "/v1/examples", "/v1/jobs/x", "/v1/scans"):
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {token}"}):
            answer = client.get(path, headers=header)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/v1/complete", content=body, headers=NPZ).status_code == 401
    known = {"Authorization": f"Bearer {token}"}
    assert client.get("/v1/model", headers=known).status_code == 200
    assert client.post("/v1/complete", content=body, headers=NPZ | known).status_code == 200


def test_other_web_pages_and_other_names_of_this_machine_are_refused(make_client):
    client = make_client(hosts=["testserver"])
    assert client.get("/v1/health").status_code == 200
    own = {"Origin": "http://testserver"}
    assert client.get("/v1/health", headers=own).status_code == 200
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
    ):
        answer = client.get("/v1/health", headers=headers)
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


def test_too_many_requests_and_too_long_a_queue_are_told_when_to_come_again(make_client, body):
    client = make_client(limits=Limits(requests_per_s=0.5, burst=2))
    answers = [client.get("/v1/health") for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    token, its_hash = new_token()
    shared = make_client(limits=Limits(requests_per_s=0.5, burst=1), token_hashes=[its_hash])
    known = {"Authorization": f"Bearer {token}"}
    assert shared.get("/v1/model").status_code == 401
    assert shared.get("/v1/model").status_code == 429  # who guesses tokens must wait, too
    assert shared.get("/v1/model", headers=known).status_code == 200
    small = make_client(limits=Limits(waiting_pixels=100))
    one = small.post("/v1/complete", content=body, headers=NPZ)
    assert one.status_code == 200  # one that is larger than all is done alone
    small.app.state.service.num_pixels = 50
    answer = small.post("/v1/complete", content=body, headers=NPZ)
    assert answer.status_code == 503
    full = make_client(limits=Limits(waiting=0))
    answer = full.post("/v1/complete", content=body, headers=NPZ)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0

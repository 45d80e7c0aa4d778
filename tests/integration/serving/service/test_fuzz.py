"""Whatever is sent, the service answers what it should, and never fails itself."""

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import scan_bodies as bodies
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_complete.serving.service.app import make_app
from stem_complete.serving.service.limits import Limits

LIMITS = Limits(
    pixels=128 * 128,
    samples=20_000,
    body_bytes=2**20,
    expanded_bytes=4 * 2**20,
    requests_per_s=1e6,
    burst=10**6,
    live_scans=10_000,
    jobs=10_000,
)
TYPES = [
    "application/x-npz",
    "application/x-npy",
    "image/tiff",
    "image/png",
    "text/csv",
    "application/vnd.apache.parquet",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/octet-stream",
    "nonsense",
]


@pytest.fixture(scope="module")
def fuzzed(make_client):
    return make_client(limits=LIMITS)


def check(answer) -> None:
    """It is an answer, or a problem that says what to do, and tells nothing of this machine."""
    # 503 and 507 tell of limits, and when to come again; other 5xx are faults.
    assert answer.status_code < 500 or answer.headers.get("retry-after"), answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        assert answer.json()["fix"]
        for leak in ("/tmp", "Traceback", "site-packages", "stem_complete/"):
            assert leak not in answer.text
    assert "content-security-policy" in answer.headers


SCHEMA = schemathesis.openapi.from_dict(make_app(cast("Any", None), Path()).openapi())
OPERATIONS = {each.ok().label: each.ok() for each in SCHEMA.get_all_operations()}


@pytest.mark.parametrize("label", OPERATIONS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_requests_after_the_description_of_the_api(fuzzed, label, data):
    case = data.draw(OPERATIONS[label].as_strategy())
    request = case.as_transport_kwargs(base_url="http://testserver")
    content = request.pop("data", None)
    if isinstance(content, bytes | str):
        request["content"] = content
    elif content is not None:
        request["data"] = content
    known = ("method", "url", "params", "headers", "json", "files", "content", "data")
    check(fuzzed.request(**{key: value for key, value in request.items() if key in known}))


def test_the_description_has_all_routes():
    assert {"POST /v1/complete", "PUT /v1/scans/{scan_id}/chunks/{number}"} <= OPERATIONS.keys()
    assert len(OPERATIONS) > 20


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """A body with some bytes changed, cut off, doubled, or put in."""
    place = st.integers(0, len(content))
    some = st.binary(min_size=1, max_size=8)
    changed = st.builds(lambda at, new: content[:at] + new + content[at + len(new) :], place, some)
    header = st.builds(
        lambda at, new: content[:at] + new + content[at + len(new) :],
        st.integers(0, min(200, len(content))),
        some,
    )
    cut = st.builds(lambda at: content[:at], place)
    doubled = st.builds(lambda a, b: content[: max(a, b)] + content[min(a, b) :], place, place)
    inserted = st.builds(lambda at, new: content[:at] + new + content[at:], place, some)
    return st.one_of(st.just(content), changed, header, cut, doubled, inserted)


RNG = np.random.default_rng(0)
DWELL = (RNG.random((40, 40)) < 0.3) * 1.0
INTENSITY = np.where(DWELL > 0, RNG.random((40, 40)), np.nan)
VALID = [content for _, content in bodies.every(INTENSITY, DWELL).values()]
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="scan"; filename="a.npy"\r\n\r\n'
    + bodies.npy(INTENSITY)
    + b'\r\n--x\r\nContent-Disposition: form-data; name="dwell"; filename="b.npy"\r\n\r\n'
    + bodies.npy(DWELL)
    + b"\r\n--x--\r\n"
)
BODIES = st.one_of(st.binary(max_size=300), *[mutated(content) for content in (*VALID, FORM)])


# Starlette leaves the files of a form that ends early to reference counting.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=BODIES, media=st.sampled_from(TYPES), right=st.booleans())
def test_damaged_bodies_of_any_format(fuzzed, content, media, right):
    if right:  # else most would be refused for their type alone
        beginnings = {b"PK": 0, b"\x93NUMPY": 1, b"II": 2, b"# shape": 4, b"PAR1": 5, b"--x": 6}
        media = next((TYPES[i] for b, i in beginnings.items() if content.startswith(b)), media)
    params = {"self_check": False, "error_map": False}
    answer = fuzzed.post(
        "/v1/complete", content=content, headers={"Content-Type": media}, params=params
    )
    check(answer)
    if answer.status_code == 200:
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
            assert np.isfinite(arrays["image"]).all()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(st.floats(width=32), max_size=64),
    number=st.integers(-2, 5),
    first=st.none() | st.integers(-5, 100),
)
def test_chunks_of_any_numbers(fuzzed, values, number, first):
    scan = fuzzed.post("/v1/scans", json={"shape": [40, 40]}).headers["location"]
    content = np.asarray(values, "<f4").tobytes()
    params = {} if first is None else {"first": first}
    check(fuzzed.put(f"{scan}/chunks/{number}", content=content, params=params))
    check(fuzzed.get(f"{scan}/preview", params={"error_map": False}))
    check(fuzzed.delete(scan))


def test_the_checks_would_notice_a_fault():
    class Fault:
        status_code, headers, text = 500, {}, "oops"

    with pytest.raises(AssertionError):
        check(Fault())

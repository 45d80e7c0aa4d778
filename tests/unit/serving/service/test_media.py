"""What is asked for and what is sent, by their media types."""

import pytest

from stem_complete.serving.service.media import (
    ANSWERS,
    CSV,
    JSON,
    NPY,
    NPZ,
    PNG,
    TIFF,
    body_type,
    negotiated,
)
from stem_complete.serving.service.problems import Problem


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", NPZ),
        ("*/*", NPZ),
        ("image/tiff", TIFF),
        ("IMAGE/TIFF", TIFF),
        ("image/*", TIFF),
        ("image/*;q=0.5, image/png", PNG),
        ("image/png;q=0.2, application/json;q=0.3", JSON),
        ("image/*, image/tiff;q=0", PNG),
        ("text/html, application/xhtml+xml, */*;q=0.1", NPZ),
        ("application/npy", NPY),
        ("application/x-npy;q=nonsense, image/png", PNG),
    ],
)
def test_the_best_of_the_formats_is_chosen(accept, expected):
    assert negotiated(accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg, video/*", "*/*;q=0", ";;;", "a/b/c"])
def test_what_no_format_satisfies_is_refused_with_all_of_them(accept):
    with pytest.raises(Problem) as refused:
        negotiated(accept)
    assert refused.value.status == 406
    assert all(media in refused.value.expected for media in ANSWERS)


@pytest.mark.parametrize(
    ("content_type", "name", "expected"),
    [
        ("image/tiff", "", TIFF),
        ("text/csv; charset=utf-8", "", CSV),
        ("application/octet-stream", "SCAN.TIF", TIFF),
        ("application/octet-stream", "../../a.b.npy", NPY),
        ("", "samples.tsv", CSV),
        ("image/png", "lies.tif", PNG),
    ],
)
def test_a_body_is_what_its_header_says_or_else_its_name(content_type, name, expected):
    assert body_type(content_type, name) == expected


@pytest.mark.parametrize(
    ("content_type", "name"),
    [("", ""), ("application/octet-stream", ""), ("text/html", "scan.tif"), ("", "a.exe")],
)
def test_other_bodies_are_refused(content_type, name):
    with pytest.raises(Problem) as refused:
        body_type(content_type, name)
    assert refused.value.status == 415

"""What clients are told of errors: enough to mend them, and nothing of this machine."""

import json
import pickle

import pytest

from stem_complete.errors import ArtifactError, DataError
from stem_complete.serving.service.events import event
from stem_complete.serving.service.problems import MEDIA_TYPE, Problem, problem_of


def test_a_problem_has_what_was_expected_found_and_the_fix():
    answer = Problem(429, expected="less", found="more", fix="wait", retry_after_s=0.2).response(
        "7"
    )
    told = json.loads(answer.body)
    assert answer.media_type == MEDIA_TYPE
    assert answer.headers["retry-after"] == "1"
    assert told["title"] == "Too Many Requests"
    assert [told[key] for key in ("expected", "found", "fix", "request_id")] == [
        "less",
        "more",
        "wait",
        "7",
    ]


def test_a_file_of_this_machine_is_not_named_and_options_are_parameters():
    error = DataError(
        expected="a readable file",
        found="No such file: '/tmp/stem-complete-abc/scan.tif'",
        where="/tmp/stem-complete-abc/scan.tif",
        fix="give --dwell-unit us --full-dwell 10",
    )
    problem = problem_of(error)
    assert problem.status == 422
    assert "/tmp" not in str(problem)
    assert problem.where == "body"
    assert problem.fix == "give `dwell_unit` us `full_dwell` 10"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("/etc/passwd: secret"),
        ArtifactError(expected="/a/model", found="none", where="/a/model", fix="look at /a"),
    ],
)
def test_what_only_we_can_mend_is_not_told(error):
    problem = problem_of(error)
    assert problem.status == 500
    assert "secret" not in str(problem)
    assert "/" not in str(problem)


def test_a_problem_crosses_processes():
    problem = Problem(503, expected="a", found="b", fix="c", where="d", retry_after_s=3)
    copy = pickle.loads(pickle.dumps(problem))
    assert copy.response("x").body == problem.response("x").body
    assert str(copy) == str(problem)


def test_long_findings_are_cut_and_stay_one_line():
    problem = Problem(422, expected="a", found="x\n" * 5000, fix="c")
    assert len(problem.found) <= 1000
    assert "\n" not in str(problem)


def test_an_event_is_lines_and_a_blank_one_whatever_its_data():
    raw = event("preview", {"why": "two\nlines", "n": 1}, 3)
    assert raw == b'event: preview\nid: 3\ndata: {"why": "two\\nlines", "n": 1}\n\n'

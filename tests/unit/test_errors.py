"""Errors are one line with four parts, and cross processes."""

import ast
import errno
import os
import pickle
from pathlib import Path

import pytest

import stem_complete
from stem_complete.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    StemCompleteError,
    failure_of,
    remedy,
    system_error_in_one_line,
)


@pytest.mark.parametrize("kind", [StemCompleteError, ConfigError, DataError, ArtifactError])
def test_one_line_with_four_parts_that_survives_pickling(kind):
    error = kind(expected="a\ncat", found="a dog", where="house.yaml", fix="change it")
    assert str(error) == "house.yaml: expected a cat, found a dog; change it"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code


def test_names_of_files_do_not_reach_the_terminal_as_they_are():
    error = DataError(expected="a cat", found="a dog", where="a\nb\x1b[31m é.tif", fix="look")
    assert str(error) == r"a\nb\x1b[31m é.tif: expected a cat, found a dog; look"


def test_wrong_use_has_its_own_exit_code():
    assert ConfigError(expected="", found="", where="", fix="").exit_code == 2
    assert DataError(expected="", found="", where="", fix="").exit_code == 1


def test_no_error_of_ours_is_without_a_fix():
    for file in Path(stem_complete.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if {"expected", "found", "where"} <= given.keys():
                said = [n.value for n in ast.walk(given["fix"]) if isinstance(n, ast.Constant)]
                assert "" not in said, f"{file}:{call.lineno}"


FAILED = {
    "ours": (DataError(expected="a", found="b", where="c", fix="do d"), "c: expected a", "do d"),
    "no room": (OSError(errno.ENOSPC, "No space left", "/x"), "/x: no space left", "make room"),
    "missing": (FileNotFoundError(errno.ENOENT, "None", "/x"), "/x: none", "is there"),
    "no number": (OSError("a proxy's page"), "a proxy's page", "can be read"),
    "memory": (MemoryError("Unable to allocate 9 GiB"), "MemoryError: Unable", "free memory"),
    "of torch": (RuntimeError("CPUAllocator: not enough memory: 9"), "RuntimeError", "free memory"),
    "a bug": (KeyError("one\nline"), "KeyError: 'one", "the program is at fault"),
}


@pytest.mark.parametrize(("error", "reason", "fix"), FAILED.values(), ids=FAILED)
def test_whatever_one_of_many_fails_with_has_a_reason_and_a_fix(error, reason, fix):
    failure = failure_of(error)
    assert failure.reason.startswith(reason)
    assert fix in failure.fix
    assert fix not in failure.reason
    assert str(failure) == f"{failure.reason}; {failure.fix}"
    assert "\n" not in str(failure)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, "let this user read and write"),
        (errno.EPERM, "permissions alone do not help"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "make room on that disk"),
        (errno.EDQUOT, "quota"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOTDIR, "a part of it is a file"),
        (errno.EEXIST, "a link that leads nowhere"),
        (errno.EISDIR, "give a file"),
        (errno.ESTALE, "mount it again"),
        (errno.EIO, "that disk or its connection"),
    ],
)
def test_errors_of_the_system_have_the_fix_that_suits_them(number, fix):
    error = OSError(number, os.strerror(number), "/data/a\nb.tif")
    assert fix in remedy(error)
    line = system_error_in_one_line(error)
    assert line.startswith(r"/data/a\nb.tif: ")
    assert line.endswith(remedy(error))


def test_other_errors_stay_what_they_are():
    assert system_error_in_one_line(OSError("a proxy's page")) == "a proxy's page"
    assert remedy(OSError(errno.EILSEQ, "")) == ""
    assert "let this user" in remedy(PermissionError("AccessDenied"))

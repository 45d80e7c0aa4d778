"""Errors are one line with four parts, and cross processes."""

import errno
import os
import pickle

import pytest

from stem_complete.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    StemCompleteError,
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
    error = DataError(expected="a cat", found="a dog", where="a\nb\x1b[31m é.tif")
    assert str(error) == r"a\nb\x1b[31m é.tif: expected a cat, found a dog"


def test_wrong_use_has_its_own_exit_code():
    assert ConfigError(expected="", found="", where="").exit_code == 2
    assert DataError(expected="", found="", where="").exit_code == 1


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

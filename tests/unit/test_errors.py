"""Errors are one line with four parts, and cross processes."""

import pickle

import pytest

from stem_complete.errors import ArtifactError, ConfigError, DataError, StemCompleteError


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

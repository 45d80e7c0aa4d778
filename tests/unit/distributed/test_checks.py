"""Checks of a single worker."""

import re

import pytest
import torch

from stem_complete.distributed import agree, all_ok, environment, from_main


def test_alone_there_is_nothing_to_agree_on():
    agree(environment())
    assert from_main(lambda: 3) == all_ok(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        all_ok(lambda: 1 / 0)


def test_environment_names_versions_and_code():
    facts = environment()
    assert facts["torch"] == torch.__version__
    assert re.fullmatch(r".+ \(code [0-9a-f]{8}\)", facts["stem-complete"])
    assert facts == environment()

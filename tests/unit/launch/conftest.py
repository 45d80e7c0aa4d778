"""A clock that tests turn by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stem_complete.config import Config, load_config


class Clock:
    """Returns the time that the test has set [s]."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def turn(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_config(tmp_path) -> Callable[..., Config]:
    """Makes a config; overrides are `section.field=value`."""

    def make(*overrides: str) -> Config:
        base = ("name=run", f"storage={tmp_path}", f"data.store={tmp_path}/store.zarr")
        return load_config([], [*base, *overrides])

    return make

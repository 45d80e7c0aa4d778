from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stem_complete.config import Config


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    def make(name: str = "alrc-seed3", **sections: object) -> Config:
        values = {"name": name, "storage": tmp_path / "runs", "data": {"store": "store.zarr"}}
        return Config.model_validate(values | sections)

    return make

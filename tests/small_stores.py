"""Small files and stores that tests of data use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stem_complete.data.store import layout


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """New stores have shards of 4 crops, so that small stores have many."""
    monkeypatch.setattr(layout, "_MAX_SHARD_CROPS", 4)


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes `num` different NPY images [48, 48] into a folder: nine crops of 16 each."""

    def write(num: int, folder: str = "images", first: int = 0) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(first, first + num):
            image = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
            np.save(tmp_path / folder / f"image{number:03}.npy", image)
        return tmp_path / folder

    return write

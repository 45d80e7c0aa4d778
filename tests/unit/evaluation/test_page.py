from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from stem_complete.evaluation.page import DPI, Page


def test_things_lie_where_they_are_put(tmp_path: Path) -> None:
    page = Page(width=2, height=1)
    axes = page.axes(left=0.5, top=0.25, width=1, height=0.5)
    axes.set_axis_off()
    axes.imshow(np.zeros((1, 2)), cmap="gray", vmin=0, vmax=1)
    page.save(tmp_path / "page.png")
    picture = imread(tmp_path / "page.png")[..., :3].mean(axis=-1)
    expected = np.ones((DPI, 2 * DPI))
    expected[DPI // 4 : 3 * DPI // 4, DPI // 2 : 3 * DPI // 2] = 0
    np.testing.assert_array_equal(picture, expected)


def test_saving_replaces_the_old_picture_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"old")
    Page(1, 1).save(path)
    assert imread(path).shape == (DPI, DPI, 4)
    assert list(tmp_path.iterdir()) == [path]


def test_failed_saving_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"old")

    def disk_full(part: Path, picture: bytes) -> None:
        with part.open("wb") as file:
            file.write(picture[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        Page(1, 1).save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

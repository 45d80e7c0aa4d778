from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from stem_complete.evaluation.page import DPI, save_png, styled


def test_saving_replaces_the_old_picture_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"old")
    with styled():
        figure = Figure((2, 1))
    save_png(figure, path)
    assert imread(path).shape == (DPI, 2 * DPI, 4)
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
        save_png(Figure((1, 1)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

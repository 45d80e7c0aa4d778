"""A model on disk, and scans of two shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py  # noqa: F401  here, as its import starts a process
import numpy as np
import pytest

from stem_complete.inference import Completer, load_completer
from stem_complete.storage.manifest import FOLDER

NUM, SHAPE = 5, (40, 48)


@pytest.fixture(scope="session")
def saved(model_folder: Path) -> Completer:
    """From disk, as only saved models have a hash to be recognised by."""
    return load_completer(model_folder, "cpu")


@pytest.fixture(scope="session")
def scan_of(texture, spiral) -> Callable[..., np.ndarray]:
    def make(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
        """A scan [h, w] float32, NaN where not measured."""
        intensity, _ = spiral(100 + 10 * texture(seed, shape), "1/5")
        return intensity.astype(np.float32)

    return make


@pytest.fixture
def scans(tmp_path, scan_of, monkeypatch) -> Path:
    """`scans/0.npy` to `4.npy`, the last two of another shape, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for number in range(NUM):
        np.save(f"scans/{number}.npy", scan_of(number, SHAPE if number < 3 else (32, 36)))
    return Path("scans")


def _digests(folder: Path | str) -> dict[str, str]:
    """Hash of every file of a destination but those that tell how it came about."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


@pytest.fixture(scope="session")
def digests() -> Callable[[Path | str], dict[str, str]]:
    return _digests

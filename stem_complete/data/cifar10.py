"""CIFAR-10, on which the ALRC paper shows clipping alone: 60,000 labelled images of 32x32 px.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import tarfile
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.data.examples import Split
from stem_complete.errors import DataError

SIDE_PX, NUM_CHANNELS, NUM_CLASSES = 32, 3, 10
NUM_BYTES = 1 + NUM_CHANNELS * SIDE_PX**2
"""Length of an example: its label, then the red, the green and the blue plane, row by row."""

_NUM_TRAIN_FILES = 5
_DAMAGE = (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError, tarfile.TarError)


class Cifar10:
    """The images of an archive as `Examples` [3073] uint8, see `NUM_BYTES`.

    Training images are the split `train`, test images `validation`. As files may be sorted by
    class, the first test images, and a fraction of the others, come from everywhere in them.

    Args:
        path: The official `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, the folder that
            either unpacks to, or one with `train.npz` and `test.npz` (`jpeg`: files one after the
            other, `offsets` [n + 1], `labels` [n]); or a folder that holds any of these.
        fraction: Of the training images, which make up the split `train`.

    Raises:
        DataError: There is no such thing, or it is damaged.
    """

    def __init__(self, path: str | Path, *, fraction: float = 1.0) -> None:
        self.path, self.fraction = Path(path), fraction
        self._place = _find(self.path)

    def __len__(self) -> int:
        return len(self._all.examples)

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Numbers of the examples of a split."""
        num_train = self._all.num_train
        if split == "train":
            num_used = max(round(self.fraction * num_train), 1)
            return np.sort(_spread(num_train)[:num_used])
        return num_train + _spread(len(self) - num_train if split == "validation" else 0)

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """Examples [b, 3073] by number."""
        found: NDArray[np.uint8] = self._all.examples[np.asarray(indices)]
        return found

    def first(self, count: int) -> Self:
        """All of them, as none can be appended."""
        del count
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all examples."""
        return self._all.sha256

    @cached_property
    def _all(self) -> _Images:
        read, place = self._place
        try:
            train, test = (np.concatenate(list(part)) for part in read(place))
        except _DAMAGE as e:
            raise DataError(
                expected="the images of CIFAR-10",
                found=f"a damaged file ({type(e).__name__}: {e})",
                where=place,
                fix="fetch it again",
            ) from e
        examples = np.concatenate([train, test])
        return _Images(examples, len(train), hashlib.sha256(examples.tobytes()).hexdigest())

    def __getstate__(self) -> dict[str, Any]:
        # Each process reads the files itself.
        return {name: value for name, value in self.__dict__.items() if name != "_all"}


class _Images(NamedTuple):
    examples: NDArray[np.uint8]
    num_train: int
    sha256: str


_Parts = tuple[Iterator[NDArray[np.uint8]], Iterator[NDArray[np.uint8]]]
"""Training and test images [n, 3073], file by file."""


def _spread(count: int) -> NDArray[np.int64]:
    """Numbers below `count` in an order whose beginning, however long, leaves no wide gaps."""
    stride = max(round(count * (5**0.5 - 1) / 2), 1)
    while math.gcd(stride, count) > 1:
        stride += 1
    return np.arange(count) * stride % max(count, 1)


def _find(path: Path) -> tuple[Callable[[Path], _Parts], Path]:
    """What reads it, and the file or folder to be read."""
    inside = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
    for place in inside:
        for read, is_one in _FORMS:
            if is_one(place):
                return read, place
    raise DataError(
        expected="cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or what one unpacks to",
        found="none" if path.exists() else "no such file or folder",
        where=path,
        fix="fetch one from https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _read_archive(place: Path) -> _Parts:
    with tarfile.open(place) as archive:
        files = {
            Path(member.name).name: opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }
    if "test_batch.bin" in files:
        return _parts(lambda name: _from_binary(files[f"{name}.bin"]))
    return _parts(lambda name: _from_pickle(files[name]))


def _read_binary_folder(place: Path) -> _Parts:
    return _parts(lambda name: _from_binary((place / f"{name}.bin").read_bytes()))


def _read_python_folder(place: Path) -> _Parts:
    return _parts(lambda name: _from_pickle((place / name).read_bytes()))


def _read_jpegs(place: Path) -> _Parts:
    return _jpegs(place / "train.npz"), _jpegs(place / "test.npz")


def _parts(read: Callable[[str], NDArray[np.uint8]]) -> _Parts:
    train = (read(f"data_batch_{number}") for number in range(1, _NUM_TRAIN_FILES + 1))
    return train, (read(name) for name in ("test_batch",))


def _from_binary(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8).reshape(-1, NUM_BYTES)


def _from_pickle(content: bytes) -> NDArray[np.uint8]:
    batch = _ArraysAlone(io.BytesIO(content), encoding="bytes").load()
    labels = np.array(batch[b"labels"], np.uint8)[:, None]
    return np.concatenate([labels, batch[b"data"].reshape(-1, NUM_BYTES - 1)], axis=1)


class _ArraysAlone(pickle.Unpickler):
    """Makes arrays and plain values, and nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _jpegs(file: Path) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image

    with np.load(file, allow_pickle=False) as held:
        jpeg, offsets, labels = (held[name] for name in ("jpeg", "offsets", "labels"))
    found = np.empty((len(labels), NUM_BYTES), np.uint8)
    found[:, 0] = labels
    for number, (start, end) in enumerate(pairwise(offsets)):
        with Image.open(io.BytesIO(jpeg[start:end].tobytes()), formats=["JPEG"]) as image:
            found[number, 1:] = np.asarray(image).transpose(2, 0, 1).reshape(-1)
    yield found


_FORMS: tuple[tuple[Callable[[Path], _Parts], Callable[[Path], bool]], ...] = (
    (_read_archive, lambda place: place.is_file() and place.name.endswith((".tar.gz", ".tgz"))),
    (_read_binary_folder, lambda place: (place / "test_batch.bin").is_file()),
    (_read_python_folder, lambda place: (place / "test_batch").is_file()),
    (_read_jpegs, lambda place: (place / "train.npz").is_file() and (place / "test.npz").is_file()),
)

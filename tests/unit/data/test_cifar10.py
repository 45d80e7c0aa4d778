"""CIFAR-10 in the forms in which it is found."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stem_complete.data.cifar10 import NUM_BYTES, Cifar10
from stem_complete.errors import DataError

RNG = np.random.default_rng(0)
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
BATCHES = {name: RNG.integers(0, 256, (3, NUM_BYTES), np.uint8) for name in NAMES}
for batch in BATCHES.values():
    batch[:, 0] %= 10
ALL = np.concatenate(list(BATCHES.values()))


def as_pickle(batch: np.ndarray) -> bytes:
    return pickle.dumps({b"labels": batch[:, 0].tolist(), b"data": batch[:, 1:]})


def written(folder: Path, form: str) -> Path:
    """The batches as `binary` or `python` files of a folder of `folder`, or an archive of it."""
    kind = form.removesuffix(" archive")
    inside = folder / f"cifar-10-batches-{kind}"
    inside.mkdir()
    for name, batch in BATCHES.items():
        if kind == "binary":
            (inside / f"{name}.bin").write_bytes(batch.tobytes())
        else:
            (inside / name).write_bytes(as_pickle(batch))
    if form == kind:
        return inside
    archive = folder / f"cifar-10-{kind}.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(inside, inside.name)
    return archive


@pytest.mark.parametrize("form", ["binary", "python", "binary archive", "python archive"])
def test_official_files(tmp_path, form):
    place = written(tmp_path, form)
    images = Cifar10(place)
    assert len(images) == 18
    assert images.indices("train").tolist() == list(range(15))
    assert sorted(images.indices("validation").tolist()) == [15, 16, 17]
    assert images.indices("test").tolist() == []
    np.testing.assert_array_equal(images.read(range(18)), ALL)
    assert images.fingerprint() == Cifar10(tmp_path).fingerprint()  # of what the folder holds
    copied = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copied.read([3]), ALL[3:4])


def sorted_by_class(folder: Path, num: int) -> Path:
    for name in NAMES:
        batch = np.zeros((num, NUM_BYTES), np.uint8)
        batch[:, 0] = np.arange(num) * 10 // num
        (folder / f"{name}.bin").write_bytes(batch.tobytes())
    return folder


def test_the_first_test_images_and_a_fraction_of_the_others_are_of_all_classes(tmp_path):
    place = sorted_by_class(tmp_path, 100)
    images = Cifar10(place, fraction=0.2)
    assert len(images.indices("train")) == 100
    assert len(set(images.indices("train").tolist())) == 100
    of_train = np.bincount(images.read(images.indices("train"))[:, 0], minlength=10)
    of_test = np.bincount(images.read(images.indices("validation")[:20])[:, 0], minlength=10)
    assert (of_train.min(), of_train.max()) == (10, 10)
    assert of_test.min() >= 1
    assert sorted(images.indices("validation").tolist()) == list(range(500, 600))


def test_jpegs(tmp_path):
    smooth = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8), (3, 32, 32))
    for name, count in (("train", 4), ("test", 2)):
        files = []
        for _ in range(count):
            file = io.BytesIO()
            Image.fromarray(smooth.transpose(1, 2, 0)).save(file, "JPEG", quality=95)
            files.append(np.frombuffer(file.getvalue(), np.uint8))
        offsets = np.cumsum([0, *map(len, files)])
        labels = np.arange(count, dtype=np.uint8)
        np.savez(tmp_path / name, jpeg=np.concatenate(files), offsets=offsets, labels=labels)
    images = Cifar10(tmp_path)
    assert (len(images), len(images.indices("train"))) == (6, 4)
    assert images.read([0, 1, 2, 3])[:, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(images.read([5])[0, 1:].reshape(3, 32, 32), smooth, atol=6)


def test_nothing_but_arrays_is_unpickled(tmp_path):
    place = written(tmp_path, "python")
    (place / "test_batch").write_bytes(pickle.dumps({b"data": Path("x"), b"labels": []}))
    with pytest.raises(DataError, match=r"damaged file \(UnpicklingError: it asks for pathlib"):
        len(Cifar10(place))


@pytest.mark.parametrize("form", ["binary", "python", "binary archive"])
def test_damage_is_told_in_one_line(tmp_path, form):
    place = written(tmp_path, form)
    file = place if place.is_file() else sorted(place.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"the images of CIFAR-10.*damaged file.*fetch it again"):
        len(Cifar10(place))


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_not_there_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz.*found no.*cs\.toronto\.edu"):
        Cifar10(tmp_path / name)

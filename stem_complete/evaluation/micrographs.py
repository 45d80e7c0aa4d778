"""Micrographs that are known in full, to be scanned."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.bundled import published_triples
from stem_complete.data.examples import Split
from stem_complete.data.formats.micrographs import Micrograph, read_micrograph, read_micrographs
from stem_complete.data.formats.search import search
from stem_complete.data.sampler import evenly_spread
from stem_complete.data.store.cropping import Crop, cut
from stem_complete.data.store.ingest import content_hash
from stem_complete.data.store.layout import is_store
from stem_complete.data.store.splits import NUMBERED, check_pattern, group_of
from stem_complete.data.store.store import CropRecord, MicrographStore
from stem_complete.errors import ConfigError, DataError
from stem_complete.evaluation.report import grouped

CROP_SIZE = 512
"""Side of the crops that files of micrographs are cut into [px]."""

Data = str | Path | Sequence[str | Path]
"""A micrograph store, or files and folders of micrographs."""


class StoredCrop(NamedTuple):
    """Where a crop of a store lies.

    Attributes:
        store: Its path.
        number: Of the crop.
    """

    store: str
    number: int

    def absolute(self) -> StoredCrop:
        """The same for a process with another working folder."""
        return self._replace(store=str(Path(self.store).absolute()))

    def read(self) -> NDArray[np.float32]:
        """[h, w], from -1 to 1."""
        pixels: NDArray[np.float32] = _store(self.store).read([self.number])[0, 0]
        return pixels


class FileCrop(NamedTuple):
    """Where a crop of a file lies.

    Attributes:
        file: Its path.
        place: Of its image among those of the file.
        row: First row [px].
        column: First column [px].
    """

    file: str
    place: int
    row: int
    column: int

    def absolute(self) -> FileCrop:
        """The same for a process with another working folder."""
        return self._replace(file=str(Path(self.file).absolute()))

    def read(self) -> NDArray[np.float32]:
        """[h, w], from -1 to 1."""
        pixels = _images(self.file)[self.place].pixels
        rows, columns = (slice(first, first + CROP_SIZE) for first in (self.row, self.column))
        return _scaled(pixels[rows, columns].astype(np.float32))


class PublishedPicture(NamedTuple):
    """Where a picture of the authors' scans lies, whose values are from 0 to 1.

    Attributes:
        file: Its path.
    """

    file: str

    def absolute(self) -> PublishedPicture:
        """The same for a process with another working folder."""
        return self._replace(file=str(Path(self.file).absolute()))

    def read(self) -> NDArray[np.float32]:
        """[h, w], from -1 to 1."""
        pixels: NDArray[np.float32] = read_micrograph(Path(self.file)).pixels.astype(np.float32)
        return 2 * pixels - 1


class KnownMicrograph(NamedTuple):
    """A crop, which is read when it is needed: there may be more than memory holds.

    Attributes:
        name: Of its file, and where in it.
        field: Its field of view; files of one field share it.
        sha256: Hash of its file or folder.
        pixels_sha256: Of its pixels.
        pixel_size_nm: Side of a pixel [nm]; None if the file does not tell.
        at: Where it is read from.
        middle_px: Side of the part in its middle that is taken, on a scale of its own [px]; None:
            all of it.
    """

    name: str
    field: str
    sha256: str
    pixels_sha256: str
    pixel_size_nm: float | None
    at: StoredCrop | FileCrop | PublishedPicture
    middle_px: int | None = None

    @property
    def pixels(self) -> NDArray[np.float32]:
        """[h, w] float32, from -1 to 1.

        Raises:
            DataError: It is not what it was when it was found.
        """
        try:
            pixels = self.at.read()
        except (IndexError, OSError) as error:
            found = f"{type(error).__name__}: {error}"
        else:
            if _sha256(pixels) == self.pixels_sha256:
                return pixels if self.middle_px is None else _middle(pixels, self.middle_px)
            found = "other pixels"
        raise DataError(
            expected="the micrograph as it was when the evaluation began",
            found=found,
            where=f"{self.at[0]}, {self.name}",
            fix="leave micrographs as they are meanwhile, and start again",
        )


class Micrographs(NamedTuple):
    """Crops to scan, and how they were chosen.

    Attributes:
        crops: All of one size.
        left_out: Crops and files that are not used, each with the reason.
        sources: Paths they were looked for in.
        split: Split of the store they are from; None if they are from files.
        max_per_field: Largest number of crops of a field of view, None for all.
    """

    crops: list[KnownMicrograph]
    left_out: list[str]
    sources: list[str]
    split: Split | None
    max_per_field: int | None

    def sha256(self) -> str:
        """SHA-256 of the crops: their names, sizes and pixels, all of which it reads."""
        digest = hashlib.sha256()
        for crop in self.crops:
            pixels = crop.pixels
            digest.update(f"{crop.name} {pixels.shape}\n".encode())
            digest.update(pixels.tobytes())
        return digest.hexdigest()


def load_micrographs(
    data: Data,
    *,
    split: Split = "test",
    max_images: int | None = None,
    max_per_field: int | None = None,
    group_pattern: str | None = None,
    trained_on: Collection[str] = (),
) -> Micrographs:
    """Crops of a micrograph store, or of files, which are cut into crops of 512 px as for a store.

    Args:
        data: A store, or files and folders.
        split: Split of the store; files are taken whole.
        max_images: Largest number of crops, spread evenly over the data.
        max_per_field: Largest number of crops of each field of view, spread evenly over it.
        group_pattern: What names a file's field of view, as for `ingest`; a store knows its own.
        trained_on: SHA-256 of files that a model was trained on; their crops are left out.

    Raises:
        ConfigError: The pattern is none, matches no file, or is given with a store.
        DataError: There are no usable micrographs.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    from_store = len(sources) == 1 and is_store(Path(sources[0]))
    left_out: list[str] = []
    _store.cache_clear()  # all files may have changed since
    _images.cache_clear()
    if from_store:
        if group_pattern is not None:
            raise ConfigError(
                expected="no pattern of fields of view, as a store knows its own",
                found=repr(group_pattern),
                where=sources[0],
                fix="leave it out, or ingest the files into a new store with it",
            )
        crops = _from_store(MicrographStore(sources[0]), split, max_images, max_per_field)
    else:
        crops, left_out = _from_files(sources, max_images, max_per_field, group_pattern or NUMBERED)
    unseen = [crop for crop in crops if crop.sha256 not in trained_on]
    left_out += [f"{crop.name}: trained on" for crop in crops if crop.sha256 in trained_on]
    if not unseen:
        raise DataError(
            expected="micrographs that the model was not trained on",
            found=f"{counted(len(crops), 'crop')} of training files",
            where="data",
            fix="evaluate on other files",
        )
    return Micrographs(
        unseen, left_out, list(map(str, sources)), split if from_store else None, max_per_field
    )


def published_micrographs() -> list[KnownMicrograph]:
    """The pictures of the authors' scans, to be scanned in other ways."""
    pictures = []
    for triple in published_triples():
        at, name = PublishedPicture(str(triple.truth)), triple.truth.stem
        sha256 = content_hash(triple.truth)
        pictures.append(KnownMicrograph(name, name, sha256, _sha256(at.read()), None, at))
    return pictures


def _from_files(
    sources: Sequence[str | Path],
    max_images: int | None,
    max_per_field: int | None,
    group_pattern: str,
) -> tuple[list[KnownMicrograph], list[str]]:
    crops: list[KnownMicrograph] = []
    known: dict[str, str] = {}  # names by hash of pixels
    files, failed = search(sources)
    check_pattern(group_pattern, files)
    left_out = [str(error) for error in failed.values()]
    for file in files:
        try:
            found = read_micrographs(file)
        except DataError as error:
            left_out.append(str(error))
            continue
        field, sha256 = group_of(file, group_pattern), content_hash(file)
        for place, micrograph in enumerate(found):
            kept, refused = cut(micrograph, CROP_SIZE, "float32")
            left_out += [f"{r.path} at {r.row}, {r.column}: {r.reason}" for r in refused]
            frame = micrograph.frame if len(found) > 1 else None
            for crop in kept:
                name, pixels = _name(file, micrograph.name, frame, crop), _scaled(crop.pixels)
                first = known.setdefault(pixels_sha256 := _sha256(pixels), name)
                if first is not name:
                    left_out.append(f"{name}: the same pixels as {first}")
                    continue
                at = FileCrop(str(file), place, crop.row, crop.column)
                size_nm = micrograph.pixel_size_nm
                crops.append(KnownMicrograph(name, field, sha256, pixels_sha256, size_nm, at))
    if not crops:
        raise DataError(
            expected=f"micrographs with contrast, {CROP_SIZE} px or larger",
            found=left_out[0] if left_out else "none",
            where=" ".join(map(str, sources)),
            fix="give complete micrographs of at least that size",
        )
    chosen = _choose([crop.field for crop in crops], max_images, max_per_field)
    return [crops[i] for i in chosen], left_out


def _from_store(
    store: MicrographStore, split: Split, max_images: int | None, max_per_field: int | None
) -> list[KnownMicrograph]:
    indices = store.indices(split)
    if not len(indices):
        raise DataError(
            expected=f"micrographs in the {split} split",
            found=", ".join(f"{count} {name}" for name, count in store.counts.items()),
            where=store.path,
            fix="choose another split, or ingest more files",
        )
    sources, numbers = store.sources(), store.column("source")[indices]
    fields = [sources[number].group for number in numbers]
    chosen = indices[_choose(fields, max_images, max_per_field)]
    crops = []
    for index, record in zip(chosen.tolist(), store.records(chosen), strict=True):
        source = record.source
        at = StoredCrop(str(store.path), index)
        frame = record.frame if len(source.frames) > 1 else None
        name = _name(Path(source.path), source.signal, frame, record)
        pixels_sha256 = _sha256(store.read([index])[0, 0])
        crops.append(
            KnownMicrograph(
                name, source.group, source.sha256, pixels_sha256, source.pixel_size_nm, at
            )
        )
    return crops


def _name(file: Path, signal: str, frame: int | None, crop: Crop | CropRecord) -> str:
    parts = (file.stem, signal, "" if frame is None else str(frame))
    return f"{' '.join(filter(None, parts))} at {crop.row}, {crop.column}"


def _choose(
    fields: Sequence[str], max_images: int | None, max_per_field: int | None
) -> NDArray[np.int64]:
    """Places of the chosen crops in rising order, given the field of view of each crop."""
    of_field = grouped(range(len(fields)), fields.__getitem__).values()
    parts = [evenly_spread(np.array(places), max_per_field or len(places)) for places in of_field]
    chosen = np.sort(np.concatenate(parts))
    return evenly_spread(chosen, max_images or len(chosen))


@lru_cache(4)
def _store(path: str) -> MicrographStore:
    return MicrographStore(path)


@lru_cache(1)
def _images(file: str) -> list[Micrograph]:
    return read_micrographs(Path(file))


def _middle(pixels: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """The middle of a crop, on a scale of its own."""
    top, left = (max(side - side_px, 0) // 2 for side in pixels.shape)
    part = pixels[top : top + side_px, left : left + side_px]
    low, high = float(part.min()), float(part.max())
    return 2 * (part - low) / ((high - low) or 1) - 1


def _sha256(pixels: NDArray[np.float32]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _scaled(pixels: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """Pixels from -1 to 1."""
    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = (2 * (values - low) / (high - low) - 1).astype(np.float32)
    return scaled

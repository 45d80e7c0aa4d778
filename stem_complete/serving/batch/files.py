"""Completions as one file a scan: TIFF, NPY or HyperSpy, or a folder of OME-Zarr."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from stem_complete.data.formats.hspy_writer import HSPY
from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.ome_zarr_writer import OME_ZARR
from stem_complete.errors import DataError, Failure
from stem_complete.files import LONGEST_NAME, sha256
from stem_complete.inference.completer import CompletedScan
from stem_complete.inference.image_files import (
    COMPLETED,
    NPY,
    Outputs,
    beside,
    is_ome_zarr,
    why_again,
    write_completion,
)
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import MadeFrom, ScanResult, Unit
from stem_complete.storage.manifest import Record
from stem_complete.storage.paths import (
    FileContent,
    clear_errors,
    is_local,
    make_folder,
    remove,
    storage_path,
)

SUFFIXES = {"tiff": ".tif", "npy": NPY, "ome-zarr": OME_ZARR, "hspy": HSPY}
"""Of the formats."""

_ERROR_CHUNKS = ("/0/c/1/0/0", "/0/c/0/1/0/0")
"""Ends of the name of the first chunk of an error map in OME-Zarr, of an image and of a stack."""


class CompletedFiles(NamedTuple):
    """A folder of completed images, each of one source.

    Attributes:
        folder: Path or URL.
        suffix: Of the images, which chooses their format.
        outputs: What is written of a scan.
        image_name: Name of the one image, if there is one alone and the user named it.
        options: What images say of how scans were read and completed, by name.
    """

    folder: str
    suffix: str
    outputs: Outputs
    image_name: str | None = None
    options: Mapping[str, Any] = {}

    def units(
        self,
        sources: Iterable[Source],
        records: Mapping[str, Record],
        reader: Reader,
        failed: dict[str, Failure],
    ) -> Iterator[Unit]:
        """A unit for each source after which an image can be named; `failed` takes the others."""
        for source in sources:
            name = self.image_name or f"{source.name}{COMPLETED}{self.suffix}"
            if self.image_name is None and (problem := self._too_long(name, source)):
                failed[str(source)] = problem.failure
                continue
            before = records.get(name)
            trusted: frozenset[int] = frozenset()
            if before is not None and before["scans"][0].get("stamp"):
                same = reader.stamp(source) == before["scans"][0]["stamp"]
                trusted = frozenset({0} if same else ())
            yield Unit(name, (source,), before=before, trusted=trusted)

    def _too_long(self, name: str, source: Source) -> DataError | None:
        """What is wrong with the name of an image, or of what is to lie beside it."""
        image = Path(name)
        names = [path.name for path in (image, *beside(image, self.outputs))]
        longest = max(names, key=lambda name: len(os.fsencode(name)))
        if (num_bytes := len(os.fsencode(longest))) <= LONGEST_NAME:
            return None
        added = longest.removeprefix(Path(source.name).name)
        return DataError(
            expected=f"a name to which {added} can be added, {LONGEST_NAME} bytes in all",
            found=f"{num_bytes} bytes",
            where=source,
            fix="rename it, or choose an output that ends in .zarr",
        )

    def why_again(self, unit: Unit, place: int, made_from: MadeFrom) -> str | None:
        """See `Destination`. Images that no manifest tells of say themselves what they are of."""
        assert place == 0
        if self.outputs.overwrite:
            return ""
        image: Any = self._image(unit)
        known = (unit.before or {}).get("files", {})
        for name, content in known.items():
            path = _place(self.folder) / name
            # Whatever is beside an image is missed below, but not what is in its folder.
            is_lost = not path.exists() and name.startswith(f"{unit.name}/")
            if is_lost or (path.exists() and list(_content(path)) != content):
                return "done again, as its completion changed"
        return why_again(image, self.outputs, made_from)

    def write(
        self,
        unit: Unit,
        completed: Mapping[int, Sequence[CompletedScan]],
        results: Sequence[ScanResult],
    ) -> dict[str, FileContent]:
        """See `Destination`; the image comes last."""
        (result,) = results
        image: Any = self._image(unit)
        if 0 not in completed:
            wanted = [image, *beside(image, self.outputs)]
            there = {self._name(unit, path): path for path in wanted if path.exists()}
            return _contents(there)
        if is_local(image):
            written = self._write(completed[0], Path(str(image)), result)
            return _contents({self._name(unit, path): path for path in written})
        with TemporaryDirectory(prefix="stem-complete-") as folder, clear_errors(image):
            here = Path(folder, image.name)
            written = self._write(completed[0], here, result)
            if is_ome_zarr(image):
                remove(image)  # chunks that the new one may not have
            contents = _contents({self._name(unit, path): path for path in written})
            for path in _files(written):
                beside_image = image.parent / path.relative_to(folder).as_posix()
                beside_image.fs.put_file(str(path), beside_image.path)
        return contents

    def _write(
        self, completed: Sequence[CompletedScan], image: Path, result: ScanResult
    ) -> list[Path]:
        return write_completion(completed, image, self.outputs, result.made_from, self.options)

    def image(self, unit: Unit, place: int) -> NDArray[np.float32]:
        """See `Destination`; the first of a stack."""
        assert place == 0
        image: Any = self._image(unit)
        if is_local(image):
            return read_file(Path(str(image))).micrographs[0].pixels
        with TemporaryDirectory(prefix="stem-complete-") as folder:
            here = Path(folder, image.name)
            image.fs.get(image.path, str(here), recursive=is_ome_zarr(image))
            return read_file(here).micrographs[0].pixels

    def wanted(self, unit: Unit) -> list[str]:
        """Names of all files that a unit is to have; of a folder those that it has."""
        image: Any = self._image(unit)
        names = [self._name(unit, path) for path in (image, *beside(image, self.outputs))]
        if not is_ome_zarr(image):
            return names
        in_folder = [
            n for n in (unit.before or {}).get("files", {}) if n.startswith(f"{names[0]}/")
        ]
        has_error = any(name.endswith(_ERROR_CHUNKS) for name in in_folder)
        is_whole = in_folder and (has_error or not self.outputs.error_map)
        return [*(in_folder if is_whole else names[:1]), *names[1:]]

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            StorageError: It cannot be made.
        """
        folder = _place(self.folder)
        with clear_errors(folder):
            make_folder(folder)

    def _image(self, unit: Unit) -> UPath:
        return _place(self.folder) / unit.name

    def _name(self, unit: Unit, path: Path) -> str:
        """Name below the folder of the image, or of what is beside it."""
        above, slash, _ = unit.name.rpartition("/")
        return f"{above}{slash}{path.name}"


@lru_cache(8)
def _place(folder: str) -> UPath:
    """The folder; each unit asks for it, and making one takes a while."""
    return storage_path(folder)


def _files(paths: Iterable[Path]) -> list[Path]:
    """Files, and those in folders; what says of a folder that it is an image comes last."""
    found = []
    for path in paths:
        inside = (each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        found += sorted(inside, key=lambda each: (each.name == "zarr.json", -len(each.parts)))
    return found


def _contents(paths: Mapping[str, Any]) -> dict[str, FileContent]:
    """Of files and of those in folders, by the names of the files and folders."""
    contents = {}
    for name, path in paths.items():
        for file in _files([path]) if is_ome_zarr(path) else [path]:
            below = str(file)[len(str(path)) :]
            contents[f"{name}{below}"] = _content(file)
    return contents


def _content(path: Any) -> FileContent:
    if isinstance(path, Path):
        return FileContent(path.stat().st_size, sha256(path))
    import hashlib

    content = path.read_bytes()
    return FileContent(len(content), hashlib.sha256(content).hexdigest())

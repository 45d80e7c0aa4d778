"""Where a scan lies -> the scan, what it was read from as hashes, and its shape."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stem_complete.data.formats.published import decode_published
from stem_complete.data.formats.scan_arrays import ScanArray
from stem_complete.data.formats.scans import read_scans, sources_of
from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError, Failure, failure_of
from stem_complete.files import sha256
from stem_complete.inference.completer import check_side
from stem_complete.inference.scan_files import is_url, place
from stem_complete.serving.batch.sources import Source, open_array

_KEPT = 64  # hashes, arrays and fetched files, such as a dwell map that many scans share


class Reader:
    """Reads scans from disks and object stores.

    What lies on an object store is fetched into a temporary folder, and the last few files are
    kept there.

    Args:
        options: What files do not say.
        published: The files are encoded as those that the authors of partial-STEM published.
    """

    def __init__(self, options: ScanOptions, *, published: bool = False) -> None:
        self.options, self.published = options, published
        self._folder: TemporaryDirectory[str] | None = None
        self._fetched: OrderedDict[str, Path] = OrderedDict()
        self._hash_of = lru_cache(_KEPT)(_hash_of)
        self._array_of = lru_cache(_KEPT)(self._open)
        self._read_stack = lru_cache(1)(self._read_file)

    def close(self) -> None:
        """Removes what was fetched."""
        self._fetched.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def made_from(self, source: Source) -> dict[str, str]:
        """Hashes of all that a scan is read from, by what it is.

        Raises:
            DataError: Something of it cannot be read.
            OSError: Likewise.
        """
        parts = {"scan": source.scan, "dwell map": source.dwell, "path": source.along}
        found: dict[str, str] = {}
        if (array := self._array(source)) is not None:
            assert source.number is not None
            found = array.content(source.number)
            del parts["scan"]
        paths = {name: self._local(part) for name, part in parts.items() if part is not None}
        # Readers tell of what is missing or no file. A pipe would be waited for for ever.
        found |= {
            name: self._hash_of(path)
            for name, path in paths.items()
            if path.is_file() or path.is_dir()
        }
        if source.number is not None and array is None:
            found["scan"] = f"{found['scan']}[{source.number}]"
        return found

    def read(self, source: Source) -> list[RasterScan]:
        """The scan, or all scans of the file.

        Raises:
            DataError: It cannot be read, or is too small.
            ConfigError: An option makes no sense.
            MissingPackageError: A package that reads such files is not installed.
        """
        dwell, along = (
            None if part is None else self._local(part) for part in (source.dwell, source.along)
        )
        array = self._array(source)
        if array is not None:
            assert source.number is not None
            rasters = [array.read(source.number, dwell, along, self.options).raster()]
        else:
            file = self._local(source.scan)
            if source.number is None:
                rasters = self._read_file(file, dwell, along)
            else:
                rasters = [self._frame(source, self._read_stack(file, dwell, along))]
        if self.published:
            rasters = list(map(decode_published, rasters))
        for raster in rasters:
            check_side(raster)
        return rasters

    def failure(self, error: Exception) -> Failure:
        """What to tell of a scan that could not be read: what was fetched is called by its URL."""
        reason, fix = failure_of(error)
        for url, here in self._fetched.items():
            reason = reason.replace(str(here), url)
        return Failure(reason, fix)

    def shapes(self, source: Source) -> list[tuple[int, int]]:
        """(h, w) [px] of each scan of the source; of arrays and most images by their headers alone.

        Raises:
            DataError: It cannot be read.
        """
        array = self._array(source)
        if array is not None and array.shape is not None:
            return [array.shape]
        if source.along is None and not is_url(source.scan):
            shape = _image_shape(Path(source.scan))
            if shape is not None:
                return [shape]
        return [raster.shape for raster in self.read(source)]

    def stamp(self, source: Source) -> str:
        """What changes when one of the source's files is written to; no content is read.

        Empty if that cannot be told, as of what is not there.
        """
        try:
            array = self._array(source) if source.in_array else None
            paths = [] if array is None else array.files(source.number or 0)
            # A chunk that is all fill value has no file.
            known: list[object] = [_facts(path) for path in paths if path.exists()]
            if array is not None:
                known.append(array.attributes)
            parts = [source.dwell, source.along, *([] if array else [source.scan])]
            for part in filter(None, parts):
                if is_url(part):
                    known.append(_url_facts(part))
                else:
                    known += [_facts(path) for path in sources_of(Path(part))]
            if array is not None and not paths:
                return ""  # of an object store; its content says it
        except (OSError, DataError):
            return ""
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    def _read_file(self, file: Path, dwell: Path | None, along: Path | None) -> list[RasterScan]:
        return [scan.raster() for scan in read_scans(file, dwell, self.options, along=along)]

    def _frame(self, source: Source, stack: list[RasterScan]) -> RasterScan:
        assert source.number is not None
        if source.number >= len(stack):
            raise DataError(
                expected=f"a scan at place {source.number}",
                found=f"{len(stack)} scans",
                where=source.scan,
                fix="check that the file is complete",
            )
        return stack[source.number]

    def _array(self, source: Source) -> ScanArray | None:
        if not source.in_array:
            return None
        return self._array_of(source._replace(number=None, name="", dwell=None))

    def _open(self, source: Source) -> ScanArray:
        array = open_array(source, self.options.signal)
        if array is None:
            raise DataError(
                expected="a zarr array of scans",
                found="something else",
                where=source.scan,
                fix="leave the file as it is while its scans are completed, and start again",
            )
        return array

    def _local(self, part: str) -> Path:
        """A path on this machine: of a URL what is fetched from there."""
        if not is_url(part):
            return Path(part)
        if part in self._fetched:
            self._fetched.move_to_end(part)
            return self._fetched[part]
        from stem_complete.storage.paths import clear_errors

        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="stem-complete-")
        there: Any = place(part)
        name = hashlib.sha256(part.encode()).hexdigest()[:16]
        here = Path(self._folder.name, name, there.name)  # whose suffix tells the format
        with clear_errors(part):
            here.parent.mkdir(exist_ok=True)
            there.fs.get(there.path, str(here), recursive=there.suffix == ".zarr")
        self._fetched[part] = here
        if len(self._fetched) > _KEPT:
            _, oldest = self._fetched.popitem(last=False)
            _remove(oldest)
        return here


def _remove(fetched: Path) -> None:
    from shutil import rmtree

    rmtree(fetched.parent, ignore_errors=True)


def _hash_of(path: Path) -> str:
    return hashlib.sha256("".join(map(sha256, sources_of(path))).encode()).hexdigest()


def _facts(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    # The second time is the system's own, which no program sets back.
    return str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _url_facts(url: str) -> tuple[str, ...]:
    path: Any = place(url)
    found = path.fs.info(path.path)
    names = ("size", "ETag", "LastModified", "mtime", "created", "generation")
    return (url, *(str(found[name]) for name in names if name in found))


def _image_shape(path: Path) -> tuple[int, int] | None:
    """(h, w) of an NPY or TIFF with one image; None if its header does not tell."""
    import numpy as np
    import tifffile

    if not path.is_file():  # a pipe would be waited for for ever
        return None
    try:
        if path.suffix.lower() == ".npy":
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        elif path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as tiff:
                shape = tiff.series[0].shape if len(tiff.series) == 1 else ()
        else:
            return None
    except Exception:  # whoever reads it says what is wrong with it
        return None
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else None

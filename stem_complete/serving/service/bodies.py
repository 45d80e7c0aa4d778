"""Bodies of requests -> partial scans: spooled to a file, checked, and read as files are."""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from stem_complete.data.conventions import raster_scan
from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.samples import image_shape, on_path
from stem_complete.data.formats.scans import (
    check_contrast,
    positions_of,
    read_samples,
    read_scan,
)
from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.scans import RasterScan
from stem_complete.errors import MissingPackageError
from stem_complete.inference.completer import check_side
from stem_complete.serving.service.announced import check_announced
from stem_complete.serving.service.apart import Apart, EndedError
from stem_complete.serving.service.limits import Limits, check_pixels
from stem_complete.serving.service.media import (
    FORM,
    HDF5,
    NPY,
    NPZ,
    SUFFIXES,
    TIFF,
    body_type,
    plain_type,
)
from stem_complete.serving.service.problems import Problem, bad, problem_of

T = TypeVar("T")

_HEADERS = threading.Lock()
"""NumPy reads headers with `ast`, which in Python 3.11 may fail where several threads do so."""

_APART = Apart()
_COPIES = 8  # of arrays, while they are read and become a scan

_WRITTEN_BYTES = 2**22
_PARTS = ("scan", "dwell", "path")


@dataclass
class Body:
    """A scan as it came, in files of a folder that is the request's own.

    Attributes:
        scan: File of its intensities, whose suffix is that of its media type.
        dwell: File of its dwell map, None if it needs none.
        along: File of its path, likewise.
        name: What the client calls it, "" if nothing.
        dwell_map: As stored [h, w], if `scan` has two images, intensities and dwell map; known once
            it is read.
    """

    scan: Path
    dwell: Path | None = None
    along: Path | None = None
    name: str = ""
    dwell_map: NDArray[np.generic] | None = None


async def spool(request: Request, folder: Path, name: str = "") -> Body:
    """Writes a body to files in `folder`: the scan alone, or a form with `scan`, `dwell`, `path`.

    Names of files are ours; what a client calls them, such as `name`, only tells their format.

    Raises:
        Problem: It is too large, of no format that we know, or has other parts.
    """
    content_type = request.headers.get("content-type", "")
    if plain_type(content_type) != FORM:
        media = body_type(content_type, name)
        file = folder / f"scan{SUFFIXES[media]}"
        await _write(request.stream(), file)
        if not file.stat().st_size:
            raise bad("a scan", "an empty body", "send the file, as `curl --data-binary @FILE`")
        return Body(file, name=name)
    try:
        form = await request.form(max_files=len(_PARTS), max_fields=0)
    except (Problem, ClientDisconnect):
        raise
    except Exception as error:  # damaged forms make parsers fail in any way
        raise bad(
            "a form with the files `scan` and perhaps `dwell` or `path`",
            "one that cannot be read, or with other parts",
            "send it as `curl -F scan=@scan.tif -F dwell=@dwell.tif`",
        ) from error
    try:
        return await _from_form(form, folder, name)
    finally:
        await form.close()


async def _from_form(form: FormData, folder: Path, name: str) -> Body:
    files: dict[str, Path] = {}
    for part, upload in form.multi_items():
        if part not in _PARTS or part in files or not isinstance(upload, UploadFile):
            raise bad(
                f"the parts {', '.join(_PARTS)}, each once",
                f"{part[:40]!r}",
                "send it as `curl -F scan=@scan.tif -F dwell=@dwell.tif`",
            )
        media = body_type(upload.content_type or "", upload.filename or "")
        files[part] = folder / f"{part}{SUFFIXES[media]}"

        async def blocks(upload: UploadFile = upload) -> AsyncIterator[bytes]:
            while block := await upload.read(2**20):
                yield block

        await _write(blocks(), files[part])
    if "scan" not in files or len(files) > 2:
        raise bad(
            "`scan`, and perhaps `dwell` or `path`",
            ", ".join(files) or "nothing",
            "send it as `curl -F scan=@scan.tif -F dwell=@dwell.tif`",
        )
    scan = form["scan"]
    own = scan.filename or "" if isinstance(scan, UploadFile) else ""
    return Body(files["scan"], files.get("dwell"), files.get("path"), name or own)


async def _write(blocks: AsyncIterator[bytes], file: Path) -> None:
    async with await anyio.open_file(file, "wb") as opened:
        waiting = bytearray()
        async for block in blocks:
            waiting += block
            if len(waiting) >= _WRITTEN_BYTES:  # as each write goes through another thread
                await opened.write(waiting)
                waiting = bytearray()
        await opened.write(waiting)


def read_body(body: Body, options: ScanOptions, limits: Limits) -> RasterScan:
    """The one scan of a body, on the pixel grid.

    A TIFF or NPY of two images is the intensities and the dwell map.

    Raises:
        Problem: It announces too much, is damaged, or is no partial scan.
    """
    if _has(body, HDF5):
        return read_apart(_read_body, body, options, limits)
    with _HEADERS if _has(body, NPY, NPZ) else nullcontext():
        return _read_body(body, options, limits)


def read_apart(read: Callable[..., T], *arguments: Any) -> T:
    """What `read` returns in a process apart, as HDF5 is not to be read in this one.

    Args:
        read: A function of a module.
        arguments: Its arguments, of which the last one is the limits.

    Raises:
        Problem: It raised one, or never ended.
    """
    limits: Limits = arguments[-1]
    try:
        return _APART.call(
            read,
            *arguments,
            limit_s=limits.hdf5_s,
            limit_bytes=_COPIES * limits.expanded_bytes,
        )
    except EndedError as error:
        raise bad("HDF5 that can be read", str(error), "check that the file is complete") from None


def _read_body(body: Body, options: ScanOptions, limits: Limits) -> RasterScan:
    media_of = {suffix: media for media, suffix in SUFFIXES.items()}
    try:
        for file in filter(None, (body.scan, body.dwell, body.along)):
            check_announced(file, media_of[file.suffix], limits)
        with warnings.catch_warnings():  # of odd values, which are nothing that a client sees
            warnings.simplefilter("ignore")
            scan = _read(body, options, limits)
        check_side(scan)
    except MissingPackageError as error:
        raise Problem(
            415,
            expected="a format that this service reads",
            found=error.where,
            fix="send CSV or NPZ",
            where="Content-Type",
        ) from error
    except Exception as error:
        raise problem_of(error) from error
    return scan


def _read(body: Body, options: ScanOptions, limits: Limits) -> RasterScan:
    if options.shape is not None:
        check_pixels(options.shape, limits)
    if body.along is None and body.dwell is None and body.scan.suffix in _IMAGES:
        images = read_file(body.scan, options.signal, masks=True).micrographs
        if len(images) == 2:
            image, dwell = images
            body.dwell_map = dwell.pixels
            scan = raster_scan(
                image.pixels,
                dwell.pixels,
                options=options,
                pixel_size_nm=image.pixel_size_nm,
                about=image.about,
                where=body.scan.name,
            )
            check_contrast(scan, body.scan.name)
            return scan
    samples = positions_of(body.along) if body.along is not None else read_samples(body.scan)
    if samples is not None:
        if body.along is not None:
            samples = on_path(_zeros(samples.columns), samples)
        check_pixels(image_shape(samples, options, body.scan.name), limits)
    return read_scan(body.scan, body.dwell, options, along=body.along).raster()


def _has(body: Body, *media: str) -> bool:
    """Whether one of a body's files is of such a type."""
    files = filter(None, (body.scan, body.dwell, body.along))
    return any(file.suffix in (SUFFIXES[each] for each in media) for file in files)


def _zeros(columns: Mapping[str, Any]) -> Any:
    """Samples without intensities, to ask for the shape of their image."""
    from stem_complete.data.formats.samples import Samples

    num = max((len(values) for values in columns.values()), default=0)
    return Samples({"intensity": np.zeros(num)})


_IMAGES = (SUFFIXES[TIFF], SUFFIXES[NPY])

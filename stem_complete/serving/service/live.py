"""Live scans, as folders: samples come in numbered chunks, in any order, perhaps twice.

    <storage>/live/<id>/scan.json       shape, columns, what is known of the scan
                        path            where the probe goes, if it was said before: rows of x, y
                                        and dwell as float64
                        chunks/000042   first sample (int64), then rows of float32, little endian
                        finished.json   how many chunks there are

A chunk is linked into its place, whole or not at all, and only once: what is resent is compared.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stem_complete.data.formats.samples import Samples, path_scans
from stem_complete.data.scans import RasterScan
from stem_complete.files import write_atomically
from stem_complete.scan import ScanPath
from stem_complete.serving.service.access import new_id
from stem_complete.serving.service.folders import Folders, Kept
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.problems import Problem, bad, too_large

Column = Literal["x", "y", "dwell", "intensity"]

_HEADER = np.dtype("<i8")
_SAMPLE = np.dtype("<f4")
_PATH = np.dtype("<f8")
"""Of x, y and dwell of each sample of a path."""


class LiveSettings(BaseModel):
    """What is known of a live scan when it begins."""

    model_config = ConfigDict(extra="forbid")

    shape: tuple[int, int] = Field(description="Height and width of the image [px].")
    columns: list[Column] = Field(
        ["x", "y", "intensity"],
        min_length=1,
        max_length=4,
        description="Of the rows of a chunk: `intensity`, and x and y [px] and `dwell` [full pixel "
        "dwells] unless the path is sent before.",
    )
    pixel_size_nm: float | None = Field(None, gt=0, lt=1e9, description="Side of a pixel [nm].")
    intensity_unit: str = Field("", max_length=40)
    title: str = Field("", max_length=200)


class LiveScan(Kept):
    """One live scan.

    Args:
        folder: Its folder.
    """

    WHAT, FILE = "live scan", "scan.json"
    FOLDERS = PARTS = ("chunks",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._chunks, self._path = folder / "chunks", folder / "path"

    @property
    def settings(self) -> LiveSettings:
        """What is known of it."""
        return LiveSettings.model_validate_json((self.folder / self.FILE).read_bytes())

    @property
    def num_expected(self) -> int | None:
        """How many chunks it has, if it is finished."""
        try:
            told = json.loads((self.folder / "finished.json").read_text())
        except FileNotFoundError:
            return None
        return int(told["chunks"])

    def numbers(self) -> list[int]:
        """Of the chunks that are there."""
        return sorted(int(name) for name in self._names())

    def version(self) -> int:
        """How many chunks there are: as none goes, one number for each state."""
        return len(self._names())

    def _names(self) -> list[str]:
        # Of thousands of chunks, ten times as fast as with paths.
        return [name for name in os.listdir(self._chunks) if name.isdigit()]  # noqa: PTH208

    def set_path(self, path: ScanPath) -> None:
        """Says where the probe goes.

        Raises:
            Problem: There are chunks already, rows have positions, or the shape is another one.
        """
        settings = self.settings
        if "x" in settings.columns or "y" in settings.columns or self.version():
            raise Problem(
                409,
                expected="a path before the first chunk, of rows without x and y",
                found="a scan that has positions or chunks",
                fix="begin another scan",
                where="path",
            )
        if path.shape != settings.shape:
            raise bad(f"a path on {settings.shape} px", f"{path.shape}", "send its own", "path")
        draft = self.folder / f"path-{new_id()}"
        np.column_stack([path.positions, path.dwell.double()]).astype(_PATH).tofile(draft)
        draft.replace(self._path)

    def put(self, number: int, first: int | None, content: bytes, limits: Limits) -> bool:
        """Takes a chunk; whether it is new.

        Args:
            number: Of the chunk, from 0.
            first: Number of its first sample along the path; None if rows have positions.
            content: Rows of float32, little endian.
            limits: What is taken.

        Raises:
            Problem: It is none, it is too large, or it differs from the one that is there.
        """
        settings = self.settings
        row = _SAMPLE.itemsize * len(settings.columns)
        if not content or len(content) % row:
            raise bad(
                f"rows of {len(settings.columns)} float32, little endian: {row} bytes each",
                f"{len(content)} bytes",
                "send whole rows",
            )
        if not 0 <= number < limits.chunks or len(content) // row > limits.samples:
            raise too_large(f"chunks 0 to {limits.chunks - 1}", f"chunk {number}", "number")
        self._check_first(first, len(content) // row)
        whole = np.array(first or 0, _HEADER).tobytes() + content
        target = self._chunks / f"{number:06}"
        if self.num_expected is not None and not target.exists():
            raise Problem(
                409,
                expected="chunks before the scan is finished",
                found="one after that",
                fix="begin another scan",
                where="number",
            )
        with NamedTemporaryFile(dir=self.folder, prefix="chunk-") as draft:
            draft.write(whole)
            draft.flush()
            os.fsync(draft.fileno())
            try:
                os.link(draft.name, target)
            except FileExistsError:
                if target.read_bytes() != whole:
                    raise Problem(
                        409,
                        expected="the same bytes when a chunk is sent again",
                        found="others",
                        fix="give it the next number, or begin another scan",
                        where="number",
                    ) from None
                return False
        return True

    def _check_first(self, first: int | None, num: int) -> None:
        if "x" in self.settings.columns:
            return
        try:
            length = self._path.stat().st_size // (3 * _PATH.itemsize)
        except FileNotFoundError:
            raise Problem(
                409,
                expected="a path, as rows have no positions",
                found="none",
                fix="send it first, by PUT to the scan's `path`",
                where="path",
            ) from None
        if first is None or not 0 <= first <= length - num:
            raise bad(
                f"`first`, the number of the first sample among {length} on the path",
                f"{first}",
                "send it with each chunk",
                "first",
            )

    def finish(self, num: int) -> None:
        """Says that these were all chunks.

        Raises:
            Problem: 409, if some have not come.
        """
        there = self.numbers()
        missing = sorted(set(range(num)) - set(there))
        if missing or len(there) != num or not num:
            listed = ", ".join(map(str, missing[:20])) or "none"
            raise Problem(
                409,
                expected=f"{num} chunks, from 0 on",
                found=f"{len(there)}; missing: {listed}",
                fix="send these again, and finish then",
                where="chunks",
            )
        write_atomically(self.folder / "finished.json", json.dumps({"chunks": num}))

    def scan(self, limits: Limits) -> tuple[int, RasterScan]:
        """Its version, and what is there so far.

        Raises:
            Problem: It has too many samples.
            DataError: It is too little for a scan.
        """
        settings, numbers = self.settings, self.numbers()
        if not numbers:
            raise bad("chunks", "none yet", "send some first", "chunks")
        rows, places = [], []
        num_samples = 0
        for number in numbers:
            raw = (self._chunks / f"{number:06}").read_bytes()
            values = np.frombuffer(raw, _SAMPLE, offset=_HEADER.itemsize)
            rows.append(values.reshape(-1, len(settings.columns)))
            first = int(np.frombuffer(raw, _HEADER, 1)[0])
            places.append(np.arange(first, first + len(rows[-1])))
            num_samples += len(rows[-1])
            if num_samples > limits.samples:
                raise too_large(f"at most {limits.samples} samples", "more", "chunks")
        table = np.concatenate(rows).astype(np.float64)
        columns: dict[str, NDArray[Any]] = {
            name: table[:, i] for i, name in enumerate(settings.columns)
        }
        if "x" not in columns:
            place = np.concatenate(places)
            x, y, dwell = np.fromfile(self._path, _PATH).reshape(-1, 3)[place].T
            columns |= {"x": x, "y": y}
            columns.setdefault("dwell", dwell)
        metadata = {"shape": settings.shape, "pixel_size_nm": settings.pixel_size_nm}
        units = {"dwell": "full", "intensity": settings.intensity_unit}
        name = settings.title or "live scan"
        (scan,) = path_scans(Samples(columns, metadata, units), name)
        return len(numbers), scan.raster()

    def told(self, limits: Limits) -> dict[str, Any]:
        """What a client sees of it."""
        numbers, num = self.numbers(), self.num_expected
        upto = num if num is not None else (numbers[-1] + 1 if numbers else 0)
        missing = sorted(set(range(upto)) - set(numbers))
        return {
            "id": self.id,
            **self.settings.model_dump(),
            "version": len(numbers),
            "chunks": len(numbers),
            "missing": missing[:100],
            "finished": num is not None,
            "expires_s": self.changed_s() + limits.kept_s,
        }


class LiveScans(Folders[LiveScan]):
    """All live scans of a service.

    Args:
        storage: Folder of the service.
        limits: What is taken.
    """

    def __init__(self, storage: Path, limits: Limits) -> None:
        super().__init__(storage / "live", LiveScan, limits.live_scans, limits.kept_s)
        self.limits = limits

    def begin(self, settings: LiveSettings) -> LiveScan:
        """A new scan.

        Raises:
            Problem: It cannot be completed, or there are too many.
        """
        height, width = settings.shape
        if min(height, width) < 1 or height * width > self.limits.pixels:
            raise too_large(
                f"a shape of at most {self.limits.pixels} pixels", f"{height} x {width}", "shape"
            )
        columns = settings.columns
        if (
            len(set(columns)) < len(columns)
            or "intensity" not in columns
            or ("x" in columns) != ("y" in columns)
        ):
            raise bad(
                "columns with intensity, with x and y or without both, each once",
                ", ".join(columns),
                "send such columns",
                "columns",
            )
        return self.new(settings.model_dump_json())

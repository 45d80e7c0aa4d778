"""Files of scan paths, as scan controllers and other programs take them: CSV, NPZ and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.errors import ConfigError
from stem_complete.files import atomic_file
from stem_complete.scan import ScanPath

_DECIMALS = 4  # of positions [px] in text: more than any scan generator resolves
# From one sample to the next the probe moves on, up to here; further away the beam is blanked.
_LARGEST_STEP_PX = 1.5


class PathNotes(NamedTuple):
    """What a file says of its path, beside the path.

    Attributes:
        geometry: Its name.
        seed: Which of a random geometry's paths it is.
        full_dwell_us: The unit of dwell: time of a full pixel dwell [us], None if not chosen yet.
        pixel_size_nm: Side of a pixel [nm], None if not chosen yet.
    """

    geometry: str
    seed: int = 0
    full_dwell_us: float | None = None
    pixel_size_nm: float | None = None


def write_path(file: Path, path: ScanPath, notes: PathNotes) -> None:
    """Writes a path; the suffix of `file` is the format.

    - `.csv`: lines `# key: value`, among them `# shape: H W`, then a header and one line for each
      sample: x, y [px], dwell [full pixel dwells] and, if `full_dwell_us` is known, dwell_us.
    - `.npz`: `positions` [n, 2], `dwell` [n], `shape` [2], and each note that is known.
    - `.json`: the fields of points in the scanspec service (`axes`, `lower`, `midpoints`, `upper`,
      `gap`), one frame for each sample, and beside them `shape`, `dwell`, the notes and, if
      `full_dwell_us` is known, `duration` [s].

    Pixel centres are whole numbers, and samples are in time order.

    Raises:
        ConfigError: The suffix is none of these.
        OSError: The file cannot be written.
    """
    write = _WRITERS.get(file.suffix.lower())
    if write is None:
        raise ConfigError(
            expected=f"a path file ending in {', '.join(_WRITERS)}",
            found=f"{file.suffix or 'no suffix'}",
            where=file,
            fix="give another name",
        )
    known = {name: value for name, value in notes._asdict().items() if value is not None}
    with atomic_file(file) as draft:
        write(draft, path, known)


def _write_csv(file: Path, path: ScanPath, known: Mapping[str, object]) -> None:
    names, formats = ["x", "y", "dwell"], [f"%.{_DECIMALS}f"] * 2 + ["%.9g"]
    columns = [*path.positions.T.numpy(), path.dwell.double().numpy()]
    if "full_dwell_us" in known:
        names, formats = [*names, "dwell_us"], [*formats, "%.9g"]
        columns.append(_durations_us(path, known))
    lines = {
        "shape": "{} {}".format(*path.shape),
        "coverage": f"{path.coverage:.6g}",
        **known,
        "positions": "px; pixel centres are whole numbers, the first is 0",
        "unit of dwell": "full pixel dwells",
    }
    with file.open("w", encoding="utf-8") as text:
        text.writelines(f"# {key}: {value}\n" for key, value in lines.items())
        text.write(f"{','.join(names)}\n")
        np.savetxt(text, np.stack(columns, axis=1), fmt=formats, delimiter=",")


def _write_npz(file: Path, path: ScanPath, known: Mapping[str, object]) -> None:
    arrays = {"positions": path.positions.numpy(), "dwell": path.dwell.numpy()}
    with file.open("wb") as content:
        np.savez_compressed(content, shape=np.array(path.shape), **arrays, **known)  # type: ignore[arg-type]


def _write_json(file: Path, path: ScanPath, known: Mapping[str, object]) -> None:
    positions = path.positions
    gap = torch.ones(len(positions), dtype=torch.bool)
    gap[1:] = positions.diff(dim=0).norm(dim=1) > _LARGEST_STEP_PX
    lower = torch.where(gap[:, None], positions, (positions + positions.roll(1, 0)) / 2)
    upper = torch.where(gap.roll(-1)[:, None], positions, lower.roll(-1, 0))
    content = {
        "total_frames": len(positions),
        "returned_frames": len(positions),
        "format": "FLOAT_LIST",
        "axes": ["x", "y"],
        "lower": _by_axis(lower),
        "midpoints": _by_axis(positions),
        "upper": _by_axis(upper),
        "gap": gap.tolist(),
        "dwell": path.dwell.tolist(),
        "shape": list(path.shape),
        **known,
    }
    if "full_dwell_us" in known:
        content["duration"] = (1e-6 * _durations_us(path, known)).tolist()
    file.write_text(json.dumps(content))


def _by_axis(positions: torch.Tensor) -> dict[str, list[float]]:
    return dict(zip("xy", positions.T.round(decimals=_DECIMALS).tolist(), strict=True))


def _durations_us(path: ScanPath, known: Mapping[str, object]) -> NDArray[np.float64]:
    """Time spent on each sample [n] [us]."""
    durations: NDArray[np.float64] = path.dwell.double().numpy() * known["full_dwell_us"]
    return durations


_WRITERS: dict[str, Callable[[Path, ScanPath, Mapping[str, object]], None]] = {
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".json": _write_json,
}

"""The same scan in each format that the service takes."""

from __future__ import annotations

import io

import h5py
import numpy as np
import tifffile


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def samples(intensity: np.ndarray, dwell: np.ndarray) -> dict[str, np.ndarray]:
    """A raster scan as samples at its pixels' centres."""
    rows, columns = np.nonzero(dwell)
    measured = intensity[rows, columns]
    return {"x": columns, "y": rows, "dwell": dwell[rows, columns], "intensity": measured}


def csv(intensity: np.ndarray, dwell: np.ndarray) -> bytes:
    height, width = dwell.shape
    columns = samples(intensity, dwell)
    lines = [f"# shape: {height} {width}", ",".join(columns)]
    lines += [",".join(map(repr, map(float, row))) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines).encode()


def parquet(intensity: np.ndarray, dwell: np.ndarray) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    height, width = dwell.shape
    table = pa.table(samples(intensity, dwell)).replace_schema_metadata(
        {"shape": f"{height} {width}"}
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def hdf5(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        for name, array in arrays.items():
            root.create_dataset(name, data=array, compression="gzip" if array.ndim else None)
    return file.getvalue()


def every(intensity: np.ndarray, dwell: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """By name, media type and content."""
    both = np.stack([intensity, dwell]).astype(np.float32)
    return {
        "npz": ("application/x-npz", npz(intensity=intensity, dwell=dwell)),
        "npy of two": ("application/x-npy", npy(both)),
        "tiff of two pages": ("image/tiff", tiff(both, metadata=None)),
        "csv": ("text/csv", csv(intensity, dwell)),
        "npz of samples": (
            "application/x-npz",
            npz(**samples(intensity, dwell), shape=np.array(dwell.shape)),
        ),
        "hdf5": ("application/x-hdf5", hdf5(intensity=intensity, dwell=dwell)),
        "hdf5 of samples": (
            "application/x-hdf5",
            hdf5(**samples(intensity, dwell), shape=np.array(dwell.shape)),
        ),
        "parquet": ("application/vnd.apache.parquet", parquet(intensity, dwell)),
    }

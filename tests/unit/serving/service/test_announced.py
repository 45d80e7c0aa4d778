"""Bodies that announce too much, or more than they have, are refused before they are decoded."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import tifffile

from stem_complete.serving.service.announced import check_announced
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.media import CSV, HDF5, NPY, NPZ, PARQUET, PNG, SUFFIXES, TIFF
from stem_complete.serving.service.problems import Problem

LIMITS = Limits(pixels=10_000, samples=1000, members=4, expanded_bytes=200_000)


def npy_header(shape: str, descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def circular_tiff() -> bytes:
    """A chain of pages that leads back to its first one."""
    content = bytearray(tiff(np.zeros((8, 8), np.float32)))
    (place,) = struct.unpack("<I", content[4:8])
    (num,) = struct.unpack("<H", content[place : place + 2])
    end = place + 2 + 12 * num
    content[end : end + 4] = struct.pack("<I", place)
    return bytes(content)


def announcing_tiff(side: int) -> bytes:
    """A small file that says it is as large as that."""
    content = bytearray(tiff(np.zeros((8, 8), np.float32)))
    (place,) = struct.unpack("<I", content[4:8])
    (num,) = struct.unpack("<H", content[place : place + 2])
    for i in range(num):
        entry = place + 2 + 12 * i
        tag, _ = struct.unpack("<HH", content[entry : entry + 4])
        if tag in (256, 257):  # width and length
            content[entry + 2 : entry + 4] = struct.pack("<H", 4)
            content[entry + 8 : entry + 12] = struct.pack("<I", side)
    return bytes(content)


def hdf5(fill: Callable[[h5py.File], object], **options) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        fill(root)
    return file.getvalue()


def virtual(root: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 8), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (8, 8))
    root.create_virtual_dataset("a", layout)


def packed(content: bytes) -> Callable[[h5py.File], object]:
    """A data set of one chunk, which is packed as another content."""

    def fill(root: h5py.File) -> None:
        made = root.create_dataset("a", (64, 64), "f4", chunks=(64, 64), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(content))

    return fill


def again(root: h5py.File) -> None:
    """Groups that meet again, along two ways each: 2^n ways for n of them."""
    root["one"] = root.create_group("other")


def texts(root: h5py.File) -> None:
    root.attrs["a"] = ["text"] * 500


def scaled(root: h5py.File) -> None:
    """With the columns' positions as HDF5's dimension scale, to which a reference leads."""
    root["a"], root["x"] = ZEROS, np.arange(64)
    root["x"].make_scale()
    root["a"].dims[1].attach_scale(root["x"])


ZEROS = np.zeros((64, 64), np.float32)
OTHER_FILE = '<OME><TiffData><UUID FileName="../../secret.tif"/></TiffData></OME>'

GZIP = {"compression": "gzip", "shuffle": True, "fletcher32": True}

BOMBS = {
    "npy that announces terabytes": (NPY, npy_header("(1000000, 1000000)"), 413),
    "npy that announces more than it has": (NPY, npy_header("(90, 90)") + b"0" * 100, 422),
    "npy of a negative shape": (NPY, npy_header("(-5, 5)"), 422),
    "npy of objects": (NPY, npy(np.array([{}], object), pickled=True), 422),
    "a pickle": (NPY, b"\x80\x04cos\nsystem\n", 422),
    "npy of four dimensions": (NPY, npy(np.zeros((2, 2, 2, 2))), 422),
    "npy of text": (NPY, npy(np.array(["a"])), 422),
    "npy of one very long line": (NPY, npy_header("(" + "1, " * 20_000 + ")"), 422),
    "npz whose members unpack to much": (
        NPZ,
        npz({f"{i}.npy": npy(np.zeros((90, 90))) for i in range(4)}),
        413,
    ),
    "npz of a member that unpacks to much": (NPZ, npz({"a.npy": npy(np.zeros(10**6))}), 413),
    "npz that announces more than it has": (NPZ, npz({"a.npy": npy_header("(90, 90)")}), 422),
    "npz of many members": (NPZ, npz({f"{i}.npy": npy(np.zeros(1)) for i in range(5)}), 413),
    "npz of a pickle": (NPZ, npz({"a.npy": npy(np.array([{}], object), pickled=True)}), 422),
    "npz with a path": (NPZ, npz({"../../etc/passwd": b"x"}), 422),
    "npz in bzip2": (NPZ, npz({"a.npy": npy(ZEROS)}, zipfile.ZIP_BZIP2), 422),
    "npz of nothing": (NPZ, b"PK\x05\x06", 422),
    "tiff that announces gigapixels": (TIFF, announcing_tiff(60_000), 413),
    "tiff of many pages": (TIFF, tiff(np.zeros((6, 8, 8), np.float32), metadata=None), 413),
    "tiff that leads in a circle": (TIFF, circular_tiff(), 413),
    "tiff that names other files": (TIFF, tiff(ZEROS, description=OTHER_FILE), 422),
    "tiff in another compression": (TIFF, tiff(ZEROS.astype("u1"), compression="jpeg"), 422),
    "tiff of huge tiles": (TIFF, tiff(ZEROS, tile=(512, 512)), 413),
    "no tiff": (TIFF, b"II*\x00" + b"\xff" * 8, 422),
    "png that announces gigapixels": (PNG, png(60_000, 60_000), 413),
    "no png": (PNG, b"GIF89a" + b"\0" * 40, 422),
    "csv of many lines": (CSV, b"x,y,i\n" + b"1,2,3\n" * 3000, 413),
    "csv of one very long line": (CSV, b"1," * 2**20, 413),
    "binary csv": (CSV, b"\0\1\2\3", 422),
    "hdf5 that links to another file": (
        HDF5,
        hdf5(lambda root: root.update({"a/b": h5py.ExternalLink("/etc/passwd", "/x")})),
        422,
    ),
    "hdf5 of a virtual data set": (HDF5, hdf5(virtual), 422),
    "hdf5 whose bytes lie in another file": (
        HDF5,
        hdf5(
            lambda root: root.create_dataset("a", (8, 8), "f4", external=[("/etc/passwd", 0, 256)])
        ),
        422,
    ),
    "hdf5 of a soft link to a group": (
        HDF5,
        hdf5(lambda root: root.update({"a": h5py.SoftLink("/")})),
        422,
    ),
    "hdf5 of groups that meet again": (HDF5, hdf5(again), 422),
    "hdf5 that announces gigapixels": (
        HDF5,
        hdf5(lambda root: root.create_dataset("a", (60_000, 60_000), "f4")),
        413,
    ),
    "hdf5 of a large chunk": (
        HDF5,
        hdf5(
            lambda root: root.create_dataset(
                "a", (8, 8), "f4", maxshape=(None, 8), chunks=(5000, 8)
            )
        ),
        413,
    ),
    "hdf5 of many samples": (HDF5, hdf5(lambda root: root.update({"x": np.zeros(1001)})), 413),
    "hdf5 of many data sets": (
        HDF5,
        hdf5(lambda root: root.update({f"{i}": np.zeros((90, 90)) for i in range(4)})),
        413,
    ),
    "hdf5 of many texts": (HDF5, hdf5(texts), 413),
    "hdf5 of lists": (
        HDF5,
        hdf5(lambda root: root.create_dataset("a", (8,), h5py.vlen_dtype("f4"))),
        422,
    ),
    "hdf5 in another compression": (
        HDF5,
        hdf5(lambda root: root.create_dataset("a", data=ZEROS, compression="lzf")),
        422,
    ),
    "hdf5 of a chunk that unpacks to much": (HDF5, hdf5(packed(bytes(10**7))), 413),
    "hdf5 of a chunk that unpacks to little": (HDF5, hdf5(packed(b"little")), 422),
    "no hdf5": (HDF5, b"\x89HDF\r\n\x1a\n" + b"\xff" * 100, 422),
    "no parquet": (PARQUET, b"PAR1" + b"\0" * 20 + b"PAR1", 422),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_costs_no_memory(name, tmp_path):
    media, content, status = BOMBS[name]
    file = tmp_path / f"scan{SUFFIXES[media]}"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            check_announced(file, media, LIMITS)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.status == status, str(refused.value)
    assert most < 20 * 2**20
    assert str(tmp_path) not in str(refused.value)


def test_parquet_of_text_or_lists_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "scan.parquet"
    for column in (["a" * 1000] * 10, [[1.0]] * 10):
        parquet.write_table(pa.table({"x": [1.0] * 10, "text": column}), file)
        with pytest.raises(Problem, match="columns of numbers"):
            check_announced(file, PARQUET, LIMITS)
    parquet.write_table(pa.table({"x": np.zeros(1001)}), file)
    with pytest.raises(Problem, match="1,000 rows"):
        check_announced(file, PARQUET, LIMITS)


@pytest.mark.parametrize(
    ("media", "content"),
    [
        (NPY, npy(ZEROS)),
        (NPZ, npz({"intensity.npy": npy(ZEROS), "title.npy": npy(np.array("gold"))})),
        (TIFF, tiff(np.stack([ZEROS, ZEROS]), metadata=None)),
        (TIFF, tiff(ZEROS, compression="deflate")),
        (TIFF, tiff(ZEROS, tile=(16, 16))),
        (TIFF, tiff(ZEROS, bigtiff=True)),
        (TIFF, tiff(ZEROS, imagej=True)),
        (PNG, png(64, 64)),
        (CSV, b"x,y,intensity\n1,2,3\n"),
        (HDF5, hdf5(lambda root: root.update({"a": ZEROS, "b": h5py.SoftLink("/a")}))),
        (HDF5, hdf5(lambda root: root.attrs.update({"none": h5py.Empty("f4"), "unit": "nm"}))),
        (HDF5, hdf5(scaled)),
        (HDF5, hdf5(lambda root: root.create_dataset("a", data=ZEROS, **GZIP), userblock_size=512)),
    ],
)
def test_what_is_within_the_limits_passes(media, content, tmp_path):
    file = tmp_path / f"scan{SUFFIXES[media]}"
    file.write_bytes(content)
    check_announced(file, media, LIMITS)

"""Bodies are read as files are, and what unpacks to more than it says is cut off."""

import lzma
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import scan_bodies as bodies

from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.serving.service.bodies import Body, read_body
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.problems import Problem

LIMITS = Limits(pixels=10_000, samples=5000)
ZEROS = bytes(2**25)


def tiff_that_unpacks(compression: str, packed: bytes) -> bytes:
    """A small TIFF whose one strip is something else."""
    content = bytearray(bodies.tiff(np.eye(64, dtype=np.float32), compression=compression))
    (place,) = struct.unpack("<I", content[4:8])
    (num,) = struct.unpack("<H", content[place : place + 2])
    strip = len(content)
    for entry in range(place + 2, place + 2 + 12 * num, 12):
        (tag,) = struct.unpack("<H", content[entry : entry + 2])
        for known, value in ((273, strip), (279, len(packed))):
            if tag == known:
                content[entry + 8 : entry + 12] = struct.pack("<I", value)
    return bytes(content) + packed


@pytest.mark.parametrize(
    ("compression", "pack"),
    [
        ("deflate", zlib.compress),
        ("zstd", imagecodecs.zstd_encode),
        ("lzma", lzma.compress),
        ("lzw", imagecodecs.lzw_encode),
    ],
)
def test_a_strip_that_unpacks_to_much_costs_no_memory(compression, pack, tmp_path):
    file = tmp_path / "scan.tif"
    file.write_bytes(tiff_that_unpacks(compression, pack(ZEROS)))
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            read_body(Body(file), AS_STORED, LIMITS)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.status == 422
    assert most < 8 * 2**20
    assert str(tmp_path) not in str(refused.value)


def test_options_are_those_of_files(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "scan.npz"
    x, y = rng.random((2, 500)) * 39
    nm = {"x_nm": 0.5 * x, "y_nm": 0.5 * y, "HAADF": rng.random(500), "BF": rng.random(500)}
    np.savez(file, **nm)
    with pytest.raises(Problem, match="`step` in nm"):
        read_body(Body(file), AS_STORED, LIMITS)
    with pytest.raises(Problem, match="`signal`"):
        read_body(Body(file), ScanOptions(step=0.5), LIMITS)
    options = ScanOptions(signal="HAADF", step=0.5, shape=(40, 40))
    scan = read_body(Body(file), options, LIMITS)
    assert scan.shape == (40, 40)
    assert scan.pixel_size_nm == pytest.approx(0.5)
    with pytest.raises(Problem, match="pixels"):
        read_body(Body(file), ScanOptions(signal="HAADF", step=0.5, shape=(10**5, 10**5)), LIMITS)


def test_a_pair_is_known_as_one(tmp_path, texture, spiral):
    intensity, dwell = spiral(texture(1))
    file = tmp_path / "scan.npy"
    np.save(file, np.stack([intensity, dwell]))
    body = Body(file)
    assert read_body(body, AS_STORED, LIMITS).coverage == pytest.approx(dwell.mean(), rel=1e-5)
    np.testing.assert_array_equal(body.dwell_map, dwell)
    np.save(file, intensity)
    body = Body(file)
    read_body(body, AS_STORED, LIMITS)
    assert body.dwell_map is None

"""TIFF of every origin: sizes right or unknown, its own pages only, detectors and colours apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file, read_micrograph, read_micrographs
from stem_complete.errors import DataError
from tests.unit.data.formats.test_databar import exported

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)
DETECTORS = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE // 2])
Tag = tuple[int, str, int, Any, bool]


def write_imagej(path: Path, unit: str, per_unit: float) -> None:
    options: dict[str, Any] = {"resolution": (per_unit, per_unit), "metadata": {"unit": unit}}
    tifffile.imwrite(path, IMAGE, imagej=True, **options)


def digital_micrograph(unit: str, step: float) -> dict[str, Any]:
    """Tags of an export: unit, origin and step along x and y."""
    tags: list[Tag] = [(code, "s", 0, unit, True) for code in (65003, 65004)]
    tags += [(code, "d", 1, 0.0, True) for code in (65006, 65007)]
    return {"extratags": tags + [(code, "d", 1, step, True) for code in (65009, 65010)]}


@pytest.mark.parametrize(
    ("unit", "per_unit", "size_nm"),
    [
        ("nm", 20, 0.05),
        ("cm", 2e8, 0.05),
        ("inch", 5.08e8, 0.05),
        ("micron", 20_000, 0.05),
        ("\\u00B5m", 20_000, 0.05),
        ("\\u00C5", 2, 0.05),
        ("nm/px", 20, 0.05),
        ("pixel", 1, None),
        ("inch", 72, None),  # of a printer
        ("cm", 118.11, None),
    ],
)
def test_imagej_units(tmp_path: Path, unit: str, per_unit: float, size_nm: float | None) -> None:
    write_imagej(tmp_path / "a.tif", unit, per_unit)
    found = read_micrograph(tmp_path / "a.tif").pixel_size_nm
    assert found == (None if size_nm is None else pytest.approx(size_nm, rel=1e-4))


@pytest.mark.parametrize(
    ("unit", "per_unit", "size_nm"),
    [
        ("CENTIMETER", 2e8, 0.05),
        ("CENTIMETER", 20_000, 500),
        ("INCH", 5.08e8, 0.05),
        ("INCH", 60_000, None),  # of a scanner for film
        ("CENTIMETER", 118.11, None),
        ("INCH", 300, None),
        ("NONE", 20, None),
    ],
)
def test_resolution_tags(tmp_path: Path, unit: Any, per_unit: float, size_nm: float | None) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE, resolution=(per_unit, per_unit), resolutionunit=unit
    )
    found = read_micrograph(tmp_path / "a.tif").pixel_size_nm
    assert found == (None if size_nm is None else pytest.approx(size_nm, rel=1e-4))


@pytest.mark.parametrize(
    ("unit", "step", "size_nm"),
    [("nm", 0.05, 0.05), ("µm", 5e-5, 0.05), ("", 0.05, None), ("pixel", 1.0, None)],
)
def test_exports_of_digital_micrograph(
    tmp_path: Path, unit: str, step: float, size_nm: float | None
) -> None:
    options = digital_micrograph(unit.replace("µ", "u"), step)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, **options)
    found = read_micrograph(tmp_path / "a.tif").pixel_size_nm
    assert found == (None if size_nm is None else pytest.approx(size_nm))


@pytest.mark.parametrize("unit", ["1/nm", "nm^-1", "1 / A", "mrad", "deg", "2theta"])
@pytest.mark.parametrize("origin", ["imagej", "digital micrograph"])
def test_diffraction_patterns_are_left_out(tmp_path: Path, unit: str, origin: str) -> None:
    path = tmp_path / "a.tif"
    if origin == "imagej":
        write_imagej(path, unit, 20)
    else:
        tifffile.imwrite(path, IMAGE, **digital_micrograph(unit, 0.05))
    with pytest.raises(DataError, match="diffraction patterns"):
        read_file(path)


# --- OME --------------------------------------------------------------------------------------


def ome(own: int, **pixels: str) -> str:
    """OME-XML of the second of three files, each with one time of a series."""
    uuids = [f"urn:uuid:0000-{number}" for number in range(3)]
    planes = "".join(
        f'<TiffData FirstT="{number}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="scan_T{number}.ome.tif">{uuid}</UUID></TiffData>'
        for number, uuid in enumerate(uuids)
    )
    size = " ".join(f'{key}="{value}"' for key, value in pixels.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/'
        f'OME/2016-06" UUID="{uuids[own]}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint16" SizeX="48" SizeY="40" SizeZ="1" SizeC="1" '
        f'SizeT="3" {size}><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("alone", [False, True])
def test_each_file_of_a_series_gives_its_own_pages(tmp_path: Path, alone: bool) -> None:
    size = {f"PhysicalSize{axis}": "0.05" for axis in "XY"}
    size |= {f"PhysicalSize{axis}Unit": "nm" for axis in "XY"}
    for number in range(3):
        tifffile.imwrite(
            tmp_path / f"scan_T{number}.ome.tif",
            IMAGE + number,
            description=ome(number, **size),
            metadata=None,
        )
    if alone:
        (tmp_path / "scan_T0.ome.tif").unlink()
    for number in range(1 if alone else 0, 3):
        micrograph = read_micrograph(tmp_path / f"scan_T{number}.ome.tif")
        np.testing.assert_array_equal(micrograph.pixels, IMAGE + number)
        assert micrograph.pixel_size_nm == 0.05


def test_a_part_under_the_name_of_another_is_still_what_its_uuid_says(tmp_path: Path) -> None:
    for name, own in (("scan_T0", 1), ("scan_T1", 0), ("scan_T2", 2)):
        path, xml = tmp_path / f"{name}.ome.tif", ome(own)
        tifffile.imwrite(path, IMAGE + own, description=xml, metadata=None)
        [micrograph] = read_micrographs(path)
        np.testing.assert_array_equal(micrograph.pixels, IMAGE + own)


def test_a_part_whose_uuid_is_unknown_is_known_by_its_name(tmp_path: Path) -> None:
    xml = ome(1).replace('OME/2016-06" UUID="urn:uuid:0000-1"', 'OME/2016-06" UUID="urn:uuid:new"')
    tifffile.imwrite(tmp_path / "scan_T1.ome.tif", IMAGE, description=xml, metadata=None)
    assert len(read_micrographs(tmp_path / "scan_T1.ome.tif")) == 1


OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
SET = ["set_T0.ome.tif", "set_T1.ome.tif"]


def write_set(folder: Path, metadata: str = "set.companion.ome") -> None:
    """Two files with HAADF and BF of one time each, whose metadata is in a third one."""
    for number, name in enumerate(SET):
        xml = f'{OME}><BinaryOnly MetadataFile="{metadata}" UUID="urn:uuid:0000-{number}"/></OME>'
        planes = np.stack([IMAGE + number, DETECTORS[1] + number])
        options: dict[str, Any] = {"description": xml, "metadata": None}
        tifffile.imwrite(folder / name, planes, photometric="minisblack", **options)


def companion(order: str = "XYCZT", step: str = "0.05", channels: str = "HAADF BF") -> str:
    planes = "".join(
        f'<TiffData FirstT="{number}" IFD="0" PlaneCount="2">'
        f'<UUID FileName="{name}">urn:uuid:0000-{number}</UUID></TiffData>'
        for number, name in enumerate(SET)
    )
    named = "".join(f'<Channel Name="{name}"/>' for name in channels.split())
    return (
        f'{OME} UUID="urn:uuid:0000-9"><Image ID="Image:0"><Pixels DimensionOrder="{order}" '
        f'Type="uint16" SizeX="48" SizeY="40" SizeZ="1" SizeC="2" SizeT="2" PhysicalSizeX="{step}" '
        f'PhysicalSizeXUnit="nm" PhysicalSizeY="{step}" PhysicalSizeYUnit="nm">'
        f"{named}{planes}</Pixels></Image></OME>"
    )


@pytest.mark.parametrize("renamed", [False, True])
def test_a_set_is_read_by_its_companion(tmp_path: Path, renamed: bool) -> None:
    write_set(tmp_path)
    (tmp_path / "set.companion.ome").write_text(companion())
    for number, name in enumerate(SET):
        path = tmp_path / name
        if renamed:
            path = path.rename(tmp_path / f"other{number}.tif")
        haadf, bf = read_micrographs(path)
        assert [(m.name, m.frame, m.pixel_size_nm) for m in (haadf, bf)] == [
            ("HAADF", 0, 0.05),
            ("BF", 0, 0.05),
        ]
        np.testing.assert_array_equal(haadf.pixels, IMAGE + number)
        np.testing.assert_array_equal(bf.pixels, DETECTORS[1] + number)


def test_the_order_of_planes_is_that_of_the_companion(tmp_path: Path) -> None:
    write_set(tmp_path)
    xml = companion("XYTZC").replace('<TiffData FirstT="1"', '<TiffData FirstC="1"')
    (tmp_path / "set.companion.ome").write_text(xml)
    first, second = (read_micrographs(tmp_path / name) for name in SET)
    assert [(m.name, m.frame) for m in first + second] == [("", 0), ("", 1)] * 2
    np.testing.assert_array_equal(first[1].pixels, DETECTORS[1])


def test_of_many_images_in_a_companion_a_file_has_its_own(tmp_path: Path) -> None:
    write_set(tmp_path)
    images = []
    for number, step in enumerate(("0.05", "0.2")):
        xml = companion(step=step).replace(SET[1 - number], "another.tif")
        xml = xml.replace(f">urn:uuid:0000-{1 - number}<", ">urn:uuid:0000-8<")
        images.append(xml[xml.index("<Image") : xml.index("</OME>")])
    (tmp_path / "set.companion.ome").write_text(f"{OME}>{''.join(images)}</OME>")
    for name, step in zip(SET, (0.05, 0.2), strict=True):
        assert [m.pixel_size_nm for m in read_micrographs(tmp_path / name)] == [step] * 2


def test_the_metadata_of_a_set_may_be_in_another_tiff(tmp_path: Path) -> None:
    write_set(tmp_path, "main.ome.tif")
    options: dict[str, Any] = {"description": companion(), "metadata": None}
    tifffile.imwrite(tmp_path / "main.ome.tif", IMAGE, **options)
    assert [m.name for m in read_micrographs(tmp_path / SET[1])] == ["HAADF", "BF"]


@pytest.mark.parametrize("own", ["", ' UUID="urn:uuid:0000-1"'])
def test_the_uuid_of_the_metadata_is_not_that_of_the_part(tmp_path: Path, own: str) -> None:
    write_set(tmp_path, SET[0])
    options: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}
    main = companion().replace('UUID="urn:uuid:0000-9"', 'UUID="urn:uuid:0000-0"')
    tifffile.imwrite(tmp_path / SET[0], DETECTORS[:2], description=main, **options)
    part = f'{OME}{own}><BinaryOnly MetadataFile="{SET[0]}" UUID="urn:uuid:0000-0"/></OME>'
    tifffile.imwrite(tmp_path / SET[1], DETECTORS[1:3], description=part, **options)
    for name, planes in zip(SET, (DETECTORS[:2], DETECTORS[1:3]), strict=True):
        for micrograph, plane in zip(read_micrographs(tmp_path / name), planes, strict=True):
            np.testing.assert_array_equal(micrograph.pixels, plane)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), ("", "no OME-XML in it"), ("<OME", "no OME-XML in it")],
)
def test_a_set_without_its_companion_is_refused(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    write_set(tmp_path)
    if content is not None:
        (tmp_path / "set.companion.ome").write_text(content)
    with pytest.raises(DataError, match=rf"set.companion.ome beside it.*{problem}.*copy that file"):
        read_file(tmp_path / SET[0])


def test_a_file_of_a_set_that_was_cut_off_is_said(tmp_path: Path) -> None:
    write_set(tmp_path)
    xml = companion().replace('PlaneCount="2"', 'PlaneCount="4"')
    (tmp_path / "set.companion.ome").write_text(xml)
    with pytest.raises(DataError, match="2 of 4 pages missing"):
        read_file(tmp_path / SET[0])


def test_channels_of_ome_are_signals(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata: dict[str, Any] = {"axes": "TCYX", "Channel": {"Name": ["HAADF", "BF"]}}
    tifffile.imwrite(path, np.stack([DETECTORS[:2]] * 3), ome=True, metadata=metadata)
    micrographs = read_micrographs(path)
    assert [(m.name, m.frame) for m in micrographs] == [
        *(("HAADF", frame) for frame in range(3)),
        *(("BF", frame) for frame in range(3)),
    ]
    np.testing.assert_array_equal(read_micrograph(path, "BF", 1).pixels, DETECTORS[1])


def test_each_image_of_ome_has_its_own_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for size in (0.05, 0.2):
            metadata = {f"PhysicalSize{axis}": size for axis in "XY"}
            metadata |= {f"PhysicalSize{axis}Unit": "nm" for axis in "XY"}
            tiff.write(IMAGE, metadata=metadata)
    assert [m.pixel_size_nm for m in read_micrographs(path)] == [0.05, 0.2]


def test_four_dimensions_of_which_nothing_is_said_are_no_stack(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((5, 6, 32, 32), np.uint16))
    with pytest.raises(DataError, match=r"4-D data \(5, 6, 32, 32\)"):
        read_file(tmp_path / "scan.tif")
    tifffile.imwrite(tmp_path / "stack.tif", DETECTORS, photometric="minisblack")
    assert [m.frame for m in read_micrographs(tmp_path / "stack.tif")] == [0, 1, 2, 3]


# --- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("num", [2, 3, 4])
def test_samples_that_are_no_colours_are_detectors(tmp_path: Path, planar: str, num: int) -> None:
    image = DETECTORS[:num] if planar == "separate" else np.moveaxis(DETECTORS[:num], 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", planarconfig=planar)
    micrographs = read_micrographs(tmp_path / "a.tif")
    assert [m.name for m in micrographs] == [f"channel {number}" for number in range(num)]
    for micrograph, expected in zip(micrographs, DETECTORS, strict=False):
        np.testing.assert_array_equal(micrograph.pixels, expected)


def test_an_image_with_opacity_is_read_if_it_is_opaque(tmp_path: Path) -> None:
    for name, opacity in (("opaque", 65_535), ("mask", IMAGE)):
        image = np.stack(np.broadcast_arrays(IMAGE, opacity), axis=-1).astype(np.uint16)
        options: dict[str, Any] = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
        tifffile.imwrite(tmp_path / f"{name}.tif", image, **options)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "opaque.tif").pixels, IMAGE)
    with pytest.raises(DataError, match=r"transparent pixels; save .* greyscale images"):
        read_file(tmp_path / "mask.tif")


# --- what is beside and below the image ---------------------------------------------------------


@pytest.mark.parametrize("subifds", [True, False])
def test_only_the_full_size_of_a_pyramid_is_read(tmp_path: Path, subifds: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(IMAGE, subifds=1 if subifds else None)
        tiff.write(IMAGE[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").pixels, IMAGE)


@pytest.mark.parametrize("kind", ["means", "each fourth"])
def test_levels_of_a_pyramid_that_are_not_marked_are_left_out(tmp_path: Path, kind: str) -> None:
    rows, columns = np.mgrid[:160, :192]
    image = (1000 + 900 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.uint16)
    means = image.reshape(80, 2, 96, 2).mean(axis=(1, 3))
    smaller = means if kind == "means" else image[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for page in (image, smaller.astype(np.uint16), image[::4, ::4], image[:40, :48].T):
            tiff.write(page)
    contents = read_file(tmp_path / "a.tif")
    assert [m.pixels.shape for m in contents.micrographs] == [(160, 192), (48, 40)]
    assert contents.skipped[0] == "series 1: series 0 in a smaller size, 80 x 96 px"


def test_levels_of_a_stack_and_previews_are_left_out(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:160, :192]
    image = (1000 + 900 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.uint16)
    stack = np.stack([image, image[::-1]])
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for pages in (stack, stack[:, ::2, ::2]):
            tiff.write(pages, photometric="minisblack")
        tiff.write((image[::4, ::4, None] // np.array([8, 9, 10])).astype(np.uint8), subfiletype=1)
    contents = read_file(tmp_path / "a.tif")
    assert [m.pixels.shape for m in contents.micrographs] == [(160, 192)] * 2
    assert contents.skipped == [
        "series 1: series 0 in a smaller size, 80 x 96 px",
        "series 2: a preview, shape (40, 48, 3)",
    ]


@pytest.mark.parametrize("slope", [1, -1])
def test_a_grey_palette_gives_its_greys(tmp_path: Path, slope: int) -> None:
    image = (IMAGE % 256).astype(np.uint8)
    greys = np.arange(256)[::slope].astype(np.uint16) * 257
    palette = {"photometric": "palette", "colormap": np.stack([greys] * 3)}
    tifffile.imwrite(tmp_path / "a.tif", image, **palette)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").pixels, greys[image])
    palette["colormap"][0] = 0
    tifffile.imwrite(tmp_path / "a.tif", image, **palette)
    with pytest.raises(DataError, match="a colour image"):
        read_file(tmp_path / "a.tif")


def test_planes_that_ome_promises_and_are_not_there_are_said(tmp_path: Path) -> None:
    xml = re.sub("<TiffData.*</TiffData>", "<TiffData/>", ome(0))
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, description=xml, metadata=None)
    with pytest.raises(DataError, match="2 of 3 pages missing"):
        read_file(tmp_path / "a.ome.tif")


def fei(image: str, own: str) -> list[Tag]:
    text = f"[User]\r\nDate=1\r\n[Image]\r\n{image}[PrivateFei]\r\n{own}"
    text += "[Scan]\r\nPixelWidth=5e-10\r\nPixelHeight=5e-10\r\n"
    return [(34682, "s", 0, text, True)]


@pytest.mark.parametrize(
    ("image", "own", "rows"),
    [
        ("ResolutionX=48\r\nResolutionY=32\r\n", "DatabarHeight=8\r\n", 32),
        ("ResolutionX=48\r\nResolutionY=32\r\n", "", 32),
        ("ResolutionX=48\r\n", "DatabarHeight=8\r\n", 32),
        ("ResolutionX=48\r\nResolutionY=40\r\n", "DatabarHeight=8\r\n", 40),  # saved without
        ("ResolutionX=48\r\nResolutionY=40\r\n", "", 40),
        ("ResolutionX=96\r\nResolutionY=32\r\n", "DatabarHeight=8\r\n", 40),  # of another image
    ],
)
@pytest.mark.parametrize("colours", [False, True])
def test_the_databar_of_thermo_fisher_is_cut_off(
    tmp_path: Path, image: str, own: str, rows: int, colours: bool
) -> None:
    pixels: NDArray[np.uint16] = np.stack([IMAGE] * 3, axis=-1) if colours else IMAGE
    photometric = "rgb" if colours else "minisblack"
    options: dict[str, Any] = {"photometric": photometric, "extratags": fei(image, own)}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    micrograph = read_micrograph(tmp_path / "a.tif")
    np.testing.assert_array_equal(micrograph.pixels, IMAGE[:rows])
    assert micrograph.pixel_size_nm == pytest.approx(0.5)


@pytest.mark.parametrize("colours", [False, True])
def test_a_bar_without_metadata_is_cut_off_and_said(tmp_path: Path, colours: bool) -> None:
    image = exported(with_bar=True)
    if colours:
        image = np.stack([image] * 3, axis=-1)
    options: dict[str, Any] = {"photometric": "rgb" if colours else "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    for name in ("a.tif", "a.png"):
        contents = read_file(tmp_path / name)
        assert contents.skipped == ["a bar of writing below the image, 40 rows"]
        np.testing.assert_array_equal(contents.micrographs[0].pixels, exported(with_bar=False))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (IMAGE > 9, "bool values, a mask"),
        ((IMAGE * 1j).astype(np.complex64), "complex64 values; save their magnitude"),
    ],
)
def test_what_holds_no_intensities_is_said(
    tmp_path: Path, image: NDArray[Any], reason: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(DataError, match=reason):
        read_file(tmp_path / "a.tif")

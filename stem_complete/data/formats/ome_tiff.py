"""What OME-XML says of a TIFF: its images, and which page of which file is which plane of them.

The XML of a set of files lies in each of them, or in one file beside them that they name.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from stem_complete.errors import DataError


class _Plane(NamedTuple):
    """Number of a plane along each dimension."""

    z: int
    c: int
    t: int


class OmeImage(NamedTuple):
    """An image as its XML describes it.

    Attributes:
        pixels: The element `Pixels`.
        pages: Numbers of this file's pages, by the number of their channel.
    """

    pixels: ET.Element
    pages: dict[int, list[int]]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels; none if one has none."""
        names = [channel.get("Name", "") for channel in self.pixels.iterfind("{*}Channel")]
        return tuple(names) if all(names) else ()

    def pixel_size(self) -> dict[str, tuple[object, object]]:
        """Side of a pixel along Y and X, each with its unit."""
        return {
            axis: (
                self.pixels.get(f"PhysicalSize{axis}"),
                self.pixels.get(f"PhysicalSize{axis}Unit", "µm"),
            )
            for axis in "YX"
        }


class Ome(NamedTuple):
    """What OME-XML says of one file.

    Attributes:
        images: Of all files that it describes.
        is_alone: Whether all planes are in the file itself.
    """

    images: list[OmeImage]
    is_alone: bool

    def own_images(self) -> list[OmeImage]:
        """Those of which the file has planes."""
        return [image for image in self.images if image.pages]

    def of_series(self, number: int, num_series: int) -> OmeImage | None:
        """The image of a series of the file; None if it is not clear which it is."""
        if len(self.images) == num_series:
            return self.images[number]
        sizes = {tuple(image.pixel_size().values()) for image in self.images}
        return self.images[0] if len(sizes) == 1 else None


def read_ome(path: Path, xml: str | None, num_pages: int) -> Ome | None:
    """What the XML of a file says, or that of the file which it names; None if there is none.

    Args:
        path: The TIFF.
        xml: OME-XML in it, if any.
        num_pages: How many pages it has.

    Raises:
        DataError: The file that has the metadata is not there or cannot be read.
    """
    if not xml:
        return None
    try:
        root = ET.fromstring(xml)  # noqa: S314 (as tifffile does)
    except ET.ParseError:
        return None
    own = root.get("UUID")
    elsewhere = root.find("{*}BinaryOnly")
    if elsewhere is not None:
        root = _metadata(path, elsewhere.get("MetadataFile", ""))
        # By the specification it is the UUID of the metadata's file, but some write their own.
        other = elsewhere.get("UUID")
        own = own or (None if other == root.get("UUID") else other)
    elements = root.findall("{*}Image/{*}Pixels")
    named = {uuid.text.strip() for uuid in root.iter() if _is_uuid(uuid) and uuid.text}
    is_alone = elsewhere is None and (named <= {own or ""} or (own is None and len(named) == 1))
    # A copy of a part may have the name of another one.
    name = None if own in named else path.name
    images = [OmeImage(each, _pages(each, name, own, num_pages)) for each in elements]
    return Ome(images, is_alone)


def _metadata(path: Path, name: str) -> ET.Element:
    """The XML in the file `name` beside `path`: a `.companion.ome`, or another TIFF."""
    beside = path.with_name(Path(name.replace("\\", "/")).name or "companion.ome")
    problem = "no such file"
    if beside.exists():
        try:
            return ET.fromstring(_xml_of(beside))  # noqa: S314
        except (ET.ParseError, ValueError) as error:
            problem = f"no OME-XML in it ({error})"
    raise DataError(
        expected=f"{beside.name} beside it, which says what its pages are",
        found=problem,
        where=path,
        fix="copy that file there, or save the images as TIFF without OME",
    )


def _xml_of(file: Path) -> str | bytes:
    if file.suffix.lower() not in (".tif", ".tiff"):
        return file.read_bytes()
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        return tiff.ome_metadata or ""


def _is_uuid(element: ET.Element) -> bool:
    return element.tag.rpartition("}")[2] == "UUID"


def _pages(
    pixels: ET.Element, name: str | None, own: str | None, num_pages: int
) -> dict[int, list[int]]:
    """Pages of the file whose UUID is `own` or, if that is not known, of that called `name`."""
    planes = _planes(pixels)
    number_of = {plane: number for number, plane in enumerate(planes)}
    found: dict[int, list[int]] = {}
    for data in pixels.iterfind("{*}TiffData"):
        uuid = data.find("{*}UUID")
        if uuid is not None:
            file = re.split(r"[\\/]", uuid.get("FileName", ""))[-1]
            if (uuid.text or "").strip() != own and (name is None or file.lower() != name.lower()):
                continue
        z, c, t = (int(data.get(f"First{axis}", 0)) for axis in "ZCT")
        start = number_of.get(_Plane(z, c, t), len(planes))  # ImageJ names some that are not there
        first = int(data.get("IFD", 0))
        count = data.get("PlaneCount", data.get("NumPlanes", 1 if "IFD" in data.attrib else None))
        last = num_pages if count is None else first + int(count)
        for page, plane in zip(range(first, last), planes[start:], strict=False):
            found.setdefault(plane.c, []).append(page)
    return found


def _planes(pixels: ET.Element) -> list[_Plane]:
    """All planes, in the order in which they are counted."""
    channel = pixels.find("{*}Channel")
    samples = 1 if channel is None else int(channel.get("SamplesPerPixel", 1))
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT"}
    sizes["C"] = max(sizes["C"] // samples, 1)
    slowest_first = pixels.get("DimensionOrder", "XYZCT")[:1:-1]
    numbers = itertools.product(*(range(sizes[axis]) for axis in slowest_first))
    return [
        _Plane(**{axis.lower(): n for axis, n in zip(slowest_first, each, strict=True)})
        for each in numbers
    ]

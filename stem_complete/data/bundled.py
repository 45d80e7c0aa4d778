"""The images that come with the package, and their licences (`examples/sources.toml`)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent.parent / "examples"


class PublishedTriple(NamedTuple):
    """One of the authors' published examples, for testing only: never train on it.

    `formats.published.read_published_scan` reads `scan` and `dwell`; the truth is in [0, 1].
    """

    truth: Path
    scan: Path
    dwell: Path


def published_triples() -> list[PublishedTriple]:
    """The three example triples of partial-STEM (Ede and Beanland 2020), 512 x 512 px."""
    folder = _FOLDER / "published"
    return [
        PublishedTriple(*(folder / f"{name}-{n}.tif" for name in ("truth", "partial_scan", "mask")))
        for n in (1, 2, 3)
    ]


def example_micrographs() -> list[Path]:
    """Real micrographs under permissive licences, free to train on, 512 px and larger."""
    return sorted((_FOLDER / "micrographs").glob("*.tif"))


def example_licences() -> dict[str, str]:
    """Licence of each bundled image by file name."""
    sources = tomllib.loads((_FOLDER / "sources.toml").read_text(encoding="utf-8"))
    return {
        image["file"]: image["licence"]
        for section in sources["section"]
        for image in section["images"]
    }

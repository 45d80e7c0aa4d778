"""The images that come with the package; `examples/SOURCES.md` tells their origin and licences."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent.parent / "examples"


class PublishedTriple(NamedTuple):
    """One of the authors' published examples, for testing only: never train on it.

    `scans.read_published_scan` reads `scan` and `dwell`; the truth is in [0, 1].
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
    return read_licences(_FOLDER / "SOURCES.md")


def read_licences(sources: Path) -> dict[str, str]:
    """Licence by file name from a table of sources in Markdown, its fourth column."""
    rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in sources.read_text(encoding="utf-8").splitlines()
        if ".tif |" in line
    )
    return {row[0]: row[3] for row in rows}

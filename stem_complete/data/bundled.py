"""The images that come with the package, and their licences (`examples/sources.toml`)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent.parent / "examples"

_COLUMNS = {
    "file": "file",
    "repository": "repository",
    "path": "path in repository",
    "licence": "licence",
    "shows": "what it shows",
    "shape": "shape, type",
    "pixel_size": "pixel size",
}
"""Headings of SOURCES.md's tables by key in `sources.toml`."""


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
    return read_licences(_FOLDER / "sources.toml")


def read_licences(sources: Path) -> dict[str, str]:
    """Licence by file name from a `sources.toml`."""
    return {
        image["file"]: image["licence"]
        for section in tomllib.loads(sources.read_text(encoding="utf-8"))["section"]
        for image in section["images"]
    }


def sources_markdown(sources: Path) -> str:
    """Text of the `SOURCES.md` beside a `sources.toml`."""
    values = tomllib.loads(sources.read_text(encoding="utf-8"))
    blocks = [f"# {values['title']}"]
    for section in values["section"]:
        if section["heading"]:
            blocks.append(f"## {section['heading']}")
        blocks.append(section["text"])
        if section["images"]:
            rows = [_COLUMNS.values(), ["---"] * len(_COLUMNS)]
            rows += [[image[key] for key in _COLUMNS] for image in section["images"]]
            blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":  # python -m stem_complete.data.bundled FOLDER writes its SOURCES.md
    folder = Path(sys.argv[1])
    (folder / "SOURCES.md").write_text(sources_markdown(folder / "sources.toml"), encoding="utf-8")

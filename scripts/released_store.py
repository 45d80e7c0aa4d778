"""Builds the store that the released model is trained on.

    python scripts/released_store.py MICROGRAPHS --store released.zarr

MICROGRAPHS holds files named `<source>_<image>` and a SOURCES.md that tells their licences, as the
bundled ones are and have. Whole sources are held
out, so that validation tells of sources never trained on. Files whose licence is stated only in a
README or in package metadata are never trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stem_complete.console import say
from stem_complete.data.bundled import read_licences
from stem_complete.data.formats.micrographs import find_files
from stem_complete.data.store.ingest import ingest

VALIDATION_SOURCES = ("bshev", "rem", "scilink", "sjeon")
UNCLEAR_LICENCES = ("alibag", "scilink")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("micrographs", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    files = find_files([options.micrographs])
    held_out = [file for file in files if _source(file) in VALIDATION_SOURCES]
    trained_on = [
        file for file in files if _source(file) not in (*VALIDATION_SOURCES, *UNCLEAR_LICENCES)
    ]
    licences = read_licences(options.micrographs / "SOURCES.md")
    unknown = [file.name for file in trained_on if file.name not in licences]
    if unknown:
        parser.error(f"no licence in SOURCES.md for {', '.join(unknown)}")
    for chosen, fractions in ((trained_on, (1, 0, 0)), (held_out, (0, 1, 0))):
        report = ingest(chosen, options.store, split_fractions=fractions, licences=licences)
        say(f"{report.num_added} crops of {len(report.added)} files")


def _source(file: Path) -> str:
    return file.name.split("_", 1)[0]


if __name__ == "__main__":
    main()

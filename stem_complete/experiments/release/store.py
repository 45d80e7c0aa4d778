"""Builds the store that the released model is trained on.

    python -m stem_complete.experiments.release.store MICROGRAPHS [MORE...] --store released.zarr

Each folder holds files named `<source>_<image>` and a SOURCES.md with a table of their licences, as
the bundled ones are and have. Whole sources are held out, so that validation is on sources never
trained on. Files whose licence is stated only in a README or in package metadata are not used for
training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from stem_complete.console import errors_in_one_line, say
from stem_complete.data.formats.search import find_files
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.splits import CROP_OF_ONE_FIELD
from stem_complete.errors import DataError

VALIDATION_SOURCES = ("bshev", "rem", "scilink", "sjeon")
UNCLEAR_LICENCES = ("alibag", "scilink")


def build_store(folders: Sequence[Path], store: Path) -> None:
    """Ingests the training and validation sources of folders.

    Raises:
        DataError: A file to train on has no licence.
    """
    licences = {folder: _licences(folder / "SOURCES.md") for folder in folders}
    trained_on = {folder: _trained_on(folder, licences[folder]) for folder in folders}
    for folder in folders:
        held_out = [f for f in find_files([folder]) if source_of(f) in VALIDATION_SOURCES]
        for chosen, fractions in ((trained_on[folder], (1, 0, 0)), (held_out, (0, 1, 0))):
            if not chosen:
                continue
            report = ingest(
                chosen,
                store,
                split_fractions=fractions,
                licences=licences[folder],
                group_pattern=CROP_OF_ONE_FIELD,
            )
            say(f"{folder.name}: {report.num_added} crops of {len(report.added)} files")


def _trained_on(folder: Path, licences: dict[str, str]) -> list[Path]:
    """Files of a folder to train on, all of them with a licence."""
    files = [
        file
        for file in find_files([folder])
        if source_of(file) not in (*VALIDATION_SOURCES, *UNCLEAR_LICENCES)
    ]
    unknown = [file.name for file in files if file.name not in licences]
    if unknown:
        raise DataError(
            expected="a licence for each file",
            found=f"none for {', '.join(unknown)}",
            where=folder / "SOURCES.md",
            fix="add a row for each",
        )
    return files


def _licences(sources: Path) -> dict[str, str]:
    """Licence by file name from a Markdown table with columns `file` and `licence`."""
    lines = sources.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    heading = next((row for row in rows if "licence" in row), ["file", "licence"])
    return {
        row[heading.index("file")]: row[heading.index("licence")]
        for row in rows
        if len(row) == len(heading)
    }


def source_of(path: str | Path) -> str:
    """Repository that a file of `<source>_<image>` is from."""
    return Path(path).name.split("_", 1)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("micrographs", type=Path, nargs="+", help="folders of micrographs")
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args(arguments)
    build_store(options.micrographs, options.store)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

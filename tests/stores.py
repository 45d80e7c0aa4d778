"""Stores to train on in tests."""

from pathlib import Path

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest

_NUM_FILES = 3  # some crops of so few files are for training


def small_store(path: Path, crop_size: int = 64) -> Path:
    """A store of crops of the three smallest bundled micrographs."""
    smallest = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[:_NUM_FILES]
    ingest(smallest, path, crop_size=crop_size)
    return path

"""The bundled images are there, licensed, and of a size that a package can carry."""

from __future__ import annotations

from pathlib import Path

import stem_complete
from stem_complete.data.bundled import (
    example_licences,
    example_micrographs,
    published_triples,
)
from stem_complete.data.formats.micrographs import read_micrograph

PACKAGE = Path(stem_complete.__file__).parent


def test_published_triples_are_complete() -> None:
    triples = published_triples()
    assert len(triples) == 3
    for triple in triples:
        for path in triple:
            assert read_micrograph(path).pixels.shape == (512, 512)


def test_every_micrograph_has_a_permissive_licence() -> None:
    paths = example_micrographs()
    assert len(paths) >= 14
    licences = example_licences()
    for path in paths:
        assert licences[path.name].split(" ")[0] in {"MIT", "Apache-2.0", "CC-BY-4.0"}
        assert min(read_micrograph(path).pixels.shape) >= 512


def test_all_that_is_listed_is_there() -> None:
    listed = {*example_licences()}
    assert listed == {path.name for path in (PACKAGE / "examples").rglob("*.tif")}


def test_nothing_is_both_for_testing_and_for_training() -> None:
    published = {path.name for triple in published_triples() for path in triple}
    assert not published & {path.name for path in example_micrographs()}


def test_size_of_all() -> None:
    paths = [*example_micrographs(), *(path for triple in published_triples() for path in triple)]
    assert sum(path.stat().st_size for path in paths) < 30e6

"""What a store holds, by content: files and signals, and crops by the hash of their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from stem_complete.data.formats.micrographs import Micrograph
from stem_complete.data.store.layout import Source
from stem_complete.data.store.pixel_hash import UNKNOWN
from stem_complete.data.store.splits import group_of
from stem_complete.data.store.store import MicrographStore


class Known:
    """What is in a store by now, and what was seen in files that are to go into it.

    Args:
        held: The store as it was.
        pattern: What names the group of a file, see `splits.group_of`.
    """

    def __init__(self, held: MicrographStore, pattern: str) -> None:
        self._pattern = pattern
        self._sources: dict[str, Source] = {}
        self._asked: set[tuple[str, str | None, int | None]] = set()
        self._frames: set[tuple[str, str, int]] = set()
        self._names: set[tuple[str, str]] = set()
        sources = held.sources()
        self.add(sources)
        # By the hash of a file, or of the pixels of a crop.
        self._groups: dict[str | int, str] = {}
        self._first: dict[int, str] = {}
        for source in sources:
            self._groups.setdefault(source.sha256, source.group)
        numbers = held.column("source").tolist()
        for pixel_hash, number in zip(held.pixel_hashes().tolist(), numbers, strict=True):
            if pixel_hash != UNKNOWN:
                self._groups[pixel_hash] = sources[number].group
                self._first[pixel_hash] = sources[number].path

    def add(self, sources: Iterable[Source]) -> None:
        """Sources that are in the store from now on."""
        for source in sources:
            sha256 = source.sha256
            self._sources.setdefault(sha256, source)
            self._asked.add((sha256, *source.asked))
            self._frames.update((sha256, source.signal, number) for number in source.frames)
            self._names.add((sha256, source.group))
            self._names.add((sha256, group_of(Path(source.path), self._pattern)))

    def asked_before(self, sha256: str, asked: tuple[str | None, int | None]) -> bool:
        """Whether the store has what was asked for of a file."""
        return (sha256, *asked) in self._asked

    def new(self, sha256: str, micrographs: Iterable[Micrograph]) -> list[Micrograph]:
        """Those that the store does not hold."""
        return [m for m in micrographs if (sha256, m.name, m.frame) not in self._frames]

    def source_of(self, sha256: str) -> Source:
        """What the store has of a file first; it must have something."""
        return self._sources[sha256]

    def is_of(self, sha256: str, group: str) -> bool:
        """Whether the store knows that a file is of that group."""
        return (sha256, group) in self._names

    def groups_that_share(
        self, sha256: str, crops: Iterable[Sequence[int]], group: str
    ) -> Iterator[str]:
        """Other groups in which that file, or a crop of those hashes, was seen first."""
        of_file: list[Sequence[str | int]] = [[sha256]]
        for keys in chain(of_file, crops):
            known = [self._groups[key] for key in keys if key in self._groups]
            first = known[0] if known else self._groups.setdefault(keys[0], group)
            if first != group:
                yield first

    def first_with(self, hashes: Sequence[int], path: Path) -> str | None:
        """The file whose crop of one of these hashes is stored; None if it is `path`, as of now."""
        for pixel_hash in hashes:
            if pixel_hash in self._first:
                return self._first[pixel_hash]
        self._first[hashes[0]] = str(path)
        return None

"""Which scan has which row of the arrays of completions: a row that is taken stays so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count, groupby

from stem_complete.errors import StemCompleteError
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import MadeFrom, Unit
from stem_complete.storage.manifest import Record

Shape = tuple[int, int]
"""(h, w) of scans [px]."""


class Rows:
    """Which scan has which row of the arrays.

    Args:
        records: What the manifest says.
        size: Number of scans of a shape in a shard.
    """

    def __init__(self, records: Mapping[str, Record], size: Callable[[Shape], int]) -> None:
        self._size = size
        self.taken: dict[Shape, dict[int, Source]] = {}
        self.trusted: set[Source] = set()
        self._new: list[tuple[Source, Shape]] = []
        self._known: dict[tuple[str, int | None], tuple[Shape, int, Record]] = {}
        self._numbers: dict[str, list[int | None]] = {}
        for record in records.values():
            group, _, shard = record["unit"].partition("/")
            height, width = map(int, group.split("x"))
            first = int(shard) * size((height, width))
            for scan in record["scans"]:
                key = scan["scan"], scan["number"]
                self._known[key] = (height, width), first + scan["row"], scan
                self._numbers.setdefault(scan["scan"], []).append(scan["number"])

    def keep_known(self, source: Source, reader: Reader) -> None:
        """Gives a scan, or each of a file, the row that it has; new ones wait.

        Raises:
            DataError: A scan that is new, or changed, cannot be read.
            OSError: Likewise.
        """
        scan, stamp = source.absolute().scan, reader.stamp(source)
        # Of a file that was read before, the manifest knows how many scans it has.
        numbers = [source.number] if source.in_array else self._numbers.get(scan, [])
        known = {number: self._known.get((scan, number)) for number in numbers}
        if known and stamp and all(e and e[2].get("stamp") == stamp for e in known.values()):
            for number, entry in known.items():
                assert entry is not None
                one = source._replace(number=number)
                self._keep(one, entry)
                self.trusted.add(one)
            return
        shapes = reader.shapes(source)
        is_stack = source.number is None and len(shapes) > 1
        for number, shape in enumerate(shapes):
            one = source._replace(number=number) if is_stack else source
            entry = self._known.pop((scan, one.number), None)
            if entry is not None and entry[0] == shape:
                self._keep(one, entry)
            else:
                self._new.append((one, shape))

    def keep_moved(self, reader: Reader) -> None:
        """Gives scans with the content of one that is no longer listed its row.

        The others that are no longer listed keep theirs: what was completed stays.
        """
        gone = {
            _content(scan["made_from"]): key
            for key, (_, _, scan) in self._known.items()
            if "failed" not in scan
        }
        if gone and self._new:
            waiting, self._new = self._new, []
            for source, shape in waiting:
                content = None
                with suppress(StemCompleteError, OSError):
                    content = _content(reader.made_from(source))
                if content in gone:
                    self._keep(source, self._known[gone.pop(content)])
                else:
                    self._new.append((source, shape))
        for (scan, number), entry in list(self._known.items()):
            if "failed" not in entry[2]:
                source = Source(scan, number=number)
                self._keep(source, entry)
                self.trusted.add(source)

    def place_new(self) -> None:
        """Gives the others the first rows that are free."""
        free: dict[Shape, Iterator[int]] = {}
        for source, shape in self._new:
            taken = self.taken.setdefault(shape, {})
            rows = free.setdefault(shape, count())
            taken[next(row for row in rows if row not in taken)] = source

    def units(self, records: Mapping[str, Record]) -> list[Unit]:
        """The shards."""
        units = []
        for shape, taken in sorted(self.taken.items()):
            size = self._size(shape)
            for shard, members in groupby(sorted(taken), key=lambda row: row // size):
                rows = list(members)
                scans = tuple(taken[row] for row in rows)
                name = f"{group_of(shape)}/{shard}"
                trusted = frozenset(i for i, scan in enumerate(scans) if scan in self.trusted)
                places = tuple(row % size for row in rows)
                units.append(Unit(name, scans, places, shape, records.get(name), trusted))
        return units

    def _keep(self, source: Source, entry: tuple[Shape, int, Record]) -> None:
        shape, row, scan = entry
        self.taken.setdefault(shape, {})[row] = source
        self._known.pop((scan["scan"], scan["number"]), None)


def _content(made_from: MadeFrom) -> frozenset[tuple[str, str]]:
    """What a scan is read from, whatever model completes it."""
    return frozenset((name, made_from[name]) for name in made_from.keys() - {"model", "options"})


def group_of(shape: Shape) -> str:
    """Name of the group of scans of a shape."""
    return f"{shape[0]}x{shape[1]}"

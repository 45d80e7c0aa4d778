"""Folders with ids: what the service keeps for its clients, for a while after the last change.

What is there is the state, and any process can read it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from stem_complete.files import write_atomically
from stem_complete.serving.service.access import is_id, new_id
from stem_complete.serving.service.problems import not_found, too_busy

_REMAINS_S = 3600.0


class Kept:
    """A folder whose name is its id.

    Args:
        folder: Its place.

    Attributes:
        WHAT: What clients call it.
        FILE: What is told of it when it is made; a folder without it is none, or a remainder.
        FOLDERS: What it has in itself from the beginning.
        PARTS: What changes in it, beside the folder itself.
    """

    WHAT: ClassVar[str]
    FILE: ClassVar[str]
    FOLDERS: ClassVar[tuple[str, ...]]
    PARTS: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, folder.name

    @property
    def is_there(self) -> bool:
        """Whether it was made, and not removed."""
        return (self.folder / self.FILE).exists()

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be done for it, which keeps it."""
        return False

    def changed_s(self) -> float:
        """When something of it changed last [s since 1970]."""
        parts = (self.folder, *(self.folder / part for part in self.PARTS))
        return max(part.stat().st_mtime for part in parts if part.exists())

    def remove(self) -> None:
        """Removes it with all that it has."""
        shutil.rmtree(self.folder, ignore_errors=True)


K = TypeVar("K", bound=Kept)


class Folders(Generic[K]):
    """All folders of one kind.

    Args:
        place: Where they are.
        kind: What each is.
        most: How many are kept.
        kept_s: How long each is kept after its last change [s].
    """

    def __init__(self, place: Path, kind: type[K], most: int, kept_s: float) -> None:
        self.place, self.kind, self.most, self.kept_s = place, kind, most, kept_s

    def new(self, told: str) -> K:
        """A new one, of which this is told.

        Raises:
            Problem: 503, if there are too many.
        """
        if sum(1 for _ in self.all()) >= self.most:
            raise too_busy(
                f"at most {self.most} {self.kind.WHAT}s",
                "as many",
                600,
                "delete some that are done, or wait until they expire",
            )
        made = self.kind(self.place / new_id())
        for name in self.kind.FOLDERS:
            (made.folder / name).mkdir(parents=True)
        write_atomically(made.folder / self.kind.FILE, told)
        return made

    def find(self, its_id: str) -> K:
        """The one of that id.

        Raises:
            Problem: 404, if there is none.
        """
        if is_id(its_id) and (found := self.kind(self.place / its_id)).is_there:
            return found
        fix = "check the id; what nobody touches for a while is removed"
        raise not_found(f"a {self.kind.WHAT}", fix)

    def all(self) -> Iterator[K]:
        """All of them, in no order."""
        return (each for each in self._any() if each.is_there)

    def sweep(self) -> None:
        """Removes those that nobody touched for long, but none that waits; and remainders.

        Remainders are what was written while another process removed the rest.
        """
        now_s = time.time()
        for each in self._any():
            with suppress(OSError, ValueError):  # it is being removed
                if each.is_there and each.is_waiting:
                    continue
                kept_s = self.kept_s if each.is_there else _REMAINS_S
                if each.changed_s() + kept_s < now_s:
                    each.remove()

    def _any(self) -> Iterator[K]:
        for folder in self.place.iterdir() if self.place.is_dir() else ():
            if is_id(folder.name):
                yield self.kind(folder)

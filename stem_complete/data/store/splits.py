"""Which split a source belongs to: by field of view, never by crop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stem_complete.data.examples import SPLITS, Split
from stem_complete.data.store.layout import Source
from stem_complete.errors import ConfigError
from stem_complete.time_limit import OutOfTimeError, time_limit

# What frames and crops of one field of view differ by stands at the end of their names, or before
# names of detectors and steps of processing, which are left out, too. What detectors see at a time
# is one field: gold_HAADF_0001 and gold_BF_0001, gold_dpc_x and gold_dpc_y, HAADF/gold and BF/gold.
#
# A number: gold_0001, gold-12, "gold (3)", gold_t07, gold_c1, gold_frame3, gold0001, 0001,
# gold_3of20; longer ones are times and the like, unless they begin with zeros. After it may come
# the angle: gold_012_-30.0, gold_012[-30.0].
_COUNTED = (
    r"(?:[cfstzn]|no|nr|acq|crop|frame|image|img|pass|rep(?:eat)?|scan|series|shot|slice"
    r"|sweep|tile|time|tilt)"
)
_DIGITS = r"(?:(?:\d{1,5}|00\d{4,8})(?:[ _-]*of[ _-]*\d{1,5})?)"
_ANGLE = r"(?:[ _][+-]?\d{1,3}\.\d{1,3}|[ _]?\[[+-]?\d{1,3}(?:\.\d{1,3})?\])"
# A number with a unit: gold_0.5s, gold_-30deg, gold_300K, and what may as well be the size of a
# specimen only if its quantity is named: gold_z5nm, T0C, gold_defocus_-10nm, but not gold_5nm.
_REAL = r"[+-]?\d{1,5}(?:[.,]\d{1,5})?[ _]?"
_UNIT = (
    r"(?:[mnuµμ]?s|sec|min|deg|°|m?rad|[np]a|[mk]?v|[km]x|(?:°|deg)[ck]|(?<=\d\d)[ck]"
    r"|(?<=\d\d[ _])[ck])"
)
_UNIT_OF_KNOWN = rf"(?:{_UNIT}|[ck]|h|hours?|[pnmuµμ]m|å|ang(?:strom)?|e)"
_QUANTITY = (
    r"(?:defocus|focus|df|height|depth|dz|temp(?:erature)?|time|delay|tilt|angle|rot(?:ation)?"
    r"|bias|voltage|current|dose|exposure|dwell)"
)
_VALUE = rf"(?:{_COUNTED}?[ _.=#-]?{_REAL}{_UNIT}|[tzf][ _.=#-]?{_REAL}{_UNIT_OF_KNOWN})"
_MONTH, _DAY, _HOUR = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:[01]\d|2[0-3])"
_DAY_OF_DATE = rf"(?<=(?:19|20)\d\d[-._]{_MONTH})[-._]{_DAY}(?!\d)"
_NUMBER = (
    rf"(?:(?!{_DAY_OF_DATE})[ _.=#-]+\(?(?:{_COUNTED}?[ _.=#-]?{_DIGITS}{_ANGLE}?|{_VALUE})\)?"
    rf"|\(\d{{1,5}}\)|{_ANGLE}"
    rf"|(?<=/)(?:(?:[tz](?=0\d))?{_DIGITS}|[tzf][ _.=#-]?{_REAL}{_UNIT_OF_KNOWN})"
    rf"|(?:frame|slice)[ _.#-]?{_DIGITS}|(?<=[^\W\d_])(?:0\d{{3,8}}|\d{{4}}))"
)
# A date and a time, also after a number: gold_20240501_103000, gold_0_2024-05-01T10-30. A date
# alone tells days apart, and a time without another name tells images apart.
_DATE = rf"(?:(?:19|20)\d\d(?:{_MONTH}{_DAY}|[-._]{_MONTH}[-._]{_DAY}))"
_TIME = rf"(?:{_HOUR}(?:[0-5]\d(?:[0-5]\d)?|[-.:_h][0-5]\d(?:[-.:_m][0-5]\d)?)(?:\.\d{{1,6}})?)"
_WHEN = rf"(?:[ _.-]+(?:{_DATE}[ _.T-]*{_TIME}|{_TIME}[ _.-]+{_DATE}))"
# Of Gatan's in-situ cameras, which put frames into a folder for each second.
_CLOCK = r"[ _]Hour_\d+[ _]Minute_\d+[ _]Second_\d+(?:[ _]Frame_\d+)?"
# "Se" alone is selenium.
_DETECTOR = (
    r"(?:[hlm]aadf|adf[12]?|[eo]?abf|obf|[bd]f-[ios]|bf|df\d?|[id]?dpc(?:[ _-]?(?:[xy]|a-c|b-d))?"
    r"|[id]com|i?com[ _-]?[xy]|bse|(?-i:SE|se)[12]?|in[ _-]?lens|etd|tld"
    r"|(?:ch|channel|det(?:ector)?|seg(?:ment)?|quad(?:rant)?)[ _-]?(?:\d{1,2}|[a-d]))"
)
_STEP = (
    r"(?:im|img|image|reg(?:istered)?|align(?:ed)?|(?:drift[ _-]?)?corr?(?:ected)?|filt(?:ered)?"
    r"|smooth(?:ed)?"
    r"|denoised?|raw|orig(?:inal)?|crop(?:ped)?|bin(?:ned)?\d*|avg|averaged?|mean|sum(?:med)?"
    r"|norm(?:ali[sz]ed)?|(?:re)?scaled|resized?|rot(?:ated)?|flip(?:ped)?|clean(?:ed)?"
    r"|proc(?:essed)?|bg[ _-]?sub|edit(?:ed)?|copy|export(?:ed)?|out(?:put)?|final|fft|\d+bit)"
)
_AFTER = rf"(?:[ _.-]+(?:{_DETECTOR}|{_STEP}))*"
# Anything may follow a number that is counted with zeros: gold_0001_spot, 0001_gold.
_INSIDE = rf"(?<=[/ _.#-]){_COUNTED}?0\d{{2,7}}(?=[ _.-])"
NUMBERED = (
    rf"(?is)^(?:(.*?)(?:/Hour_\d+/Minute_\d+/Second_\d+)?(/[^/]+?){_CLOCK}{_AFTER}"
    rf"|(.*?){_NUMBER}?{_WHEN}{_AFTER}"
    rf"|(.*?(?<![^\W\d_]){_QUANTITY})[ _.=#-]*{_REAL}{_UNIT_OF_KNOWN}?{_AFTER}"
    rf"|(.*?)(?:(?:[ _.-]+[ctz]\d{{1,5}})+{_NUMBER}?|{_NUMBER}){_AFTER}"
    rf"|(.*?){_INSIDE}([^/]*)|(.*))$"
)
"""Files that differ in the number of their names, or in their detector, are of one field of view.

What its groups match is the field's name but for the detectors in it, which `group_of` leaves out.
"""

_DETECTORS = re.compile(
    rf"(?i)(?<=/)(?:{_DETECTOR}(?:[ _.-]+|(?=/)|$))+|[ _.-]+{_DETECTOR}(?=[ _./-]|$)"
)
"""Detectors in a path, as words, with what parts each from the next word."""

_LONGEST_SEARCH = 2  # seconds

CROP_OF_ONE_FIELD = r"(?s)^(.*?)(?:_c\d+)?$"
"""Files that differ in `_c1`, `_c2`, ... at the end of their names are of one field of view."""


def group_of(path: Path, pattern: str = NUMBERED) -> str:
    """Name of the field of view that a file is of.

    Args:
        path: The file.
        pattern: What its groups match in the file's path without suffix, "/" between folders,
            names the field. A file of which they match nothing is a field of its own.

    Raises:
        ConfigError: The pattern takes seconds for one path.
    """
    name = _without_suffix(path)
    named = _named(pattern, name)
    if pattern == NUMBERED:
        named = re.sub("/+", "/", _DETECTORS.sub("", named)).rstrip("/")
    return named or name


def _named(pattern: str, name: str) -> str:
    """What the groups of the pattern match in a path without suffix."""
    try:
        with time_limit(_LONGEST_SEARCH):
            match = re.search(pattern, name)
    except OutOfTimeError as error:
        raise ConfigError(
            expected="a regular expression that is searched for quickly",
            found=f"{pattern!r}, which takes over {_LONGEST_SEARCH} s for {name}",
            where="group",
            fix="repeat no group that repeats something itself, such as (a+)+",
        ) from error
    return "/".join(filter(None, match.groups())) if match else ""


def _without_suffix(path: Path) -> str:
    name = path.resolve()
    return name.with_name(re.sub(r"(?i)(\.ome)?(\.zarr)?\.[^.]+$", "", name.name)).as_posix()


def check_pattern(pattern: str, files: Sequence[Path]) -> list[Path]:
    """The files of which the pattern names no field of view: each is one of its own.

    Raises:
        ConfigError: These are all files, or it is no pattern.
    """
    fix = r"for example (.*)_\d+, which ignores a number after _ at the end of names"
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(
            expected="a regular expression", found=f"{pattern!r}: {error}", where="group", fix=fix
        ) from error
    if not num_groups:
        raise ConfigError(
            expected="a regular expression with a group (...) that names the field of view",
            found=f"{pattern!r} without a group",
            where="group",
            fix=fix,
        )
    unnamed = [file for file in files if not _named(pattern, _without_suffix(file))]
    if files and len(unnamed) == len(files):
        first = _without_suffix(files[0])
        raise ConfigError(
            expected="a regular expression whose groups match in the path of some file",
            found=f"{pattern!r}, which matches nothing in {len(files)}, such as {first}",
            where="group",
            fix=fix,
        )
    return unnamed


class LargestField(NamedTuple):
    """The field of view of most crops.

    Attributes:
        name: Its name: that of its group of most crops.
        split: Where it is.
        num_files: Files that it has crops of.
        num_groups: Groups that are of it, as they share an image.
        share: Of all crops.
    """

    name: str
    split: Split
    num_files: int
    num_groups: int
    share: float


@dataclass
class _Group:
    """What there is of the files of one name."""

    contents: set[str] = field(default_factory=set)
    num_crops: int = 0


class SplitPlan:
    """Assigns fields of view to splits, in the order in which they come.

    A field is a group of files by their names, or several that are tied, as they share an image.
    Those that are known keep their split, so a store's splits never change when it grows. Of the
    new ones the first goes to the largest split, the next to those that are still empty; after
    that each goes to the split that lacks most crops of its share. The same files in the same
    order, at once or in several goes, so end up in the same splits, unless some are tied.

    Args:
        fractions: Shares of train, validation and test; they add up to 1.
        known: Sources that have their split already.
        pattern: What names a source's group, see `group_of`.
    """

    def __init__(
        self,
        fractions: Sequence[float],
        known: Iterable[Source] = (),
        pattern: str = NUMBERED,
    ) -> None:
        if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"split_fractions must be {len(SPLITS)} shares that add up to 1, got {fractions}"
            )
        self._fractions: Mapping[Split, float] = dict(zip(SPLITS, fractions, strict=True))
        self._crops: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._groups: dict[str, _Group] = {}
        self._tied_to: dict[str, str] = {}
        self._of_field: dict[str, Split] = {}
        for source in known:
            if source.split is not None:
                self._note(source.group, source.sha256, source.split, source.num_crops)
            # It may have been named by another pattern.
            self.tie(source.group, group_of(Path(source.path), pattern))

    def tie(self, group: str, other: str) -> bool:
        """Makes two groups one field of view; False if they are in different splits already."""
        one, two = self.field_of(group), self.field_of(other)
        if one == two:
            return True
        if two in self._of_field:
            one, two = two, one
        if two in self._of_field:
            return self._of_field[one] == self._of_field[two]
        self._tied_to[two] = one
        return True

    def assign(self, group: str, sha256: str, num_crops: int) -> Split:
        """The split of `num_crops` new crops from a file of that group and content."""
        split = self.split_of(group) or self._neediest(num_crops)
        self._note(group, sha256, split, num_crops)
        return split

    def split_of(self, group: str) -> Split | None:
        """The split of a group's field of view; None if it has none yet."""
        return self._of_field.get(self.field_of(group))

    def field_of(self, group: str) -> str:
        """The name of a group's field of view: that of the group which all others are tied to."""
        last = group
        while last in self._tied_to:
            last = self._tied_to[last]
        if last != group:
            self._tied_to[group] = last  # so that no chain grows long
        return last

    @property
    def num_fields(self) -> int:
        """Fields of view of which there are crops."""
        return len({self.field_of(name) for name in self._groups})

    @property
    def num_files(self) -> int:
        """Files of which there are crops."""
        return len(set[str]().union(*(group.contents for group in self._groups.values())))

    @property
    def largest(self) -> LargestField:
        """The field of view of most crops; there must be crops."""
        fields: dict[str, list[str]] = {}
        for name in self._groups:
            fields.setdefault(self.field_of(name), []).append(name)

        def num_crops(names: Iterable[str]) -> int:
            return sum(self._groups[name].num_crops for name in names)

        names = max(fields.values(), key=num_crops)
        split = self.split_of(names[0])
        assert split is not None
        return LargestField(
            name=max(names, key=lambda name: self._groups[name].num_crops),
            split=split,
            num_files=len(set[str]().union(*(self._groups[name].contents for name in names))),
            num_groups=len(names),
            share=num_crops(names) / sum(self._crops.values()),
        )

    @property
    def empty(self) -> list[Split]:
        """Splits that should have a share and have no crops."""
        return [s for s in SPLITS if self._fractions[s] > 0 and not self._crops[s]]

    def _neediest(self, num_crops: int) -> Split:
        total = sum(self._crops.values()) + num_crops
        wanted = [split for split in SPLITS if self._fractions[split] > 0]
        empty = [split for split in wanted if not self._crops[split]]
        if empty:
            return max(empty, key=lambda split: self._fractions[split])
        return max(wanted, key=lambda split: self._fractions[split] * total - self._crops[split])

    def _note(self, group: str, sha256: str, split: Split, num_crops: int) -> None:
        self._of_field.setdefault(self.field_of(group), split)
        if num_crops:
            of_group = self._groups.setdefault(group, _Group())
            of_group.contents.add(sha256)
            of_group.num_crops += num_crops
            self._crops[split] += num_crops

"""Which split a source belongs to: by field of view, never by crop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stem_complete.data.examples import SPLITS, Split
from stem_complete.data.store.layout import Source

# `gold_c1.tif` and `gold_c2.tif` are crops of one field of view.
CROP_OF_ONE_FIELD = r"_c\d+$"


def group_of(path: Path, pattern: str = CROP_OF_ONE_FIELD) -> str:
    """Name of the field of view: folder and name of a file, less its suffix and `pattern`."""
    return str(path.resolve().with_name(re.sub(pattern, "", path.stem)))


class SplitPlan:
    """Assigns groups to splits, in the order in which they come.

    Groups that are known keep their split, so a store's splits never change when it grows. Of the
    new ones the first goes to the largest split, the next to those that are still empty; after
    that each goes to the split that lacks most crops of its share. The same files in the same
    order, at once or in several goes, so end up in the same splits.

    Args:
        fractions: Shares of train, validation and test; they add up to 1.
        known: Sources that have their split already.
    """

    def __init__(self, fractions: Sequence[float], known: Iterable[Source] = ()) -> None:
        if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"split_fractions must be {len(SPLITS)} shares that add up to 1, got {fractions}"
            )
        self._fractions: Mapping[Split, float] = dict(zip(SPLITS, fractions, strict=True))
        self._crops: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._of_group: dict[str, Split] = {}
        self._of_content: dict[str, Split] = {}
        for source in known:
            if source.split is not None:
                self._note(source.group, source.sha256, source.split, source.num_crops)

    def assign(self, group: str, sha256: str, num_crops: int) -> Split:
        """The split of `num_crops` new crops from a file of that group and content."""
        known = self._of_content.get(sha256) or self._of_group.get(group)
        split = known or self._neediest(num_crops)
        self._note(group, sha256, split, num_crops)
        return split

    def _neediest(self, num_crops: int) -> Split:
        total = sum(self._crops.values()) + num_crops
        wanted = [split for split in SPLITS if self._fractions[split] > 0]
        empty = [split for split in wanted if not self._crops[split]]
        if empty:
            return max(empty, key=lambda split: self._fractions[split])
        return max(wanted, key=lambda split: self._fractions[split] * total - self._crops[split])

    def _note(self, group: str, sha256: str, split: Split, num_crops: int) -> None:
        self._of_group.setdefault(group, split)
        self._of_content.setdefault(sha256, split)
        self._crops[split] += num_crops

"""Sources are split by field of view, in the wanted shares, and never move."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.data.examples import SPLITS, Split
from stem_complete.data.store.layout import Source
from stem_complete.data.store.splits import SplitPlan, group_of

FRACTIONS = (0.7, 0.15, 0.15)


def source(name: str, split: Split, num_crops: int) -> Source:
    return Source(
        path=f"{name}.tif",
        sha256=f"hash of {name}",
        signal="",
        frames=(0,),
        shape=(8, 8),
        dtype="uint8",
        pixel_size_nm=None,
        group=name,
        split=split,
        licence=None,
        num_crops=num_crops,
    )


def assign_all(plan: SplitPlan, sizes: list[int], first: int = 0) -> list[Source]:
    names = [f"f{number}" for number in range(first, first + len(sizes))]
    return [
        source(name, plan.assign(name, f"hash of {name}", size), size)
        for name, size in zip(names, sizes, strict=True)
    ]


SIZES = st.lists(st.integers(1, 50), min_size=3, max_size=60)


@given(SIZES)
def test_three_sources_are_enough_for_every_split_to_get_one(sizes: list[int]) -> None:
    assert {s.split for s in assign_all(SplitPlan(FRACTIONS), sizes)} == set(SPLITS)


@given(SIZES, st.data())
def test_appending_gives_the_same_splits_as_all_at_once(
    sizes: list[int], data: st.DataObject
) -> None:
    at_once = assign_all(SplitPlan(FRACTIONS), sizes)
    cut = data.draw(st.integers(0, len(sizes)))
    begun = assign_all(SplitPlan(FRACTIONS), sizes[:cut])
    assert begun + assign_all(SplitPlan(FRACTIONS, begun), sizes[cut:], cut) == at_once


@given(st.lists(st.integers(1, 9), min_size=100, max_size=100))
def test_shares_are_met_to_the_size_of_a_source(sizes: list[int]) -> None:
    sources = assign_all(SplitPlan(FRACTIONS), sizes)
    for split, fraction in zip(SPLITS, FRACTIONS, strict=True):
        share = sum(s.num_crops for s in sources if s.split == split)
        assert abs(share - fraction * sum(sizes)) <= 2 * max(sizes)


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_a_group_never_parts(names: list[str]) -> None:
    plan = SplitPlan(FRACTIONS)
    splits: dict[str, set[Split]] = {}
    for number, name in enumerate(names):
        splits.setdefault(name, set()).add(plan.assign(name, f"hash {number}", 3))
    assert all(len(found) == 1 for found in splits.values())


def test_the_same_content_under_another_name_keeps_its_split() -> None:
    plan = SplitPlan(FRACTIONS)
    splits = [plan.assign(f"f{number}", f"hash {number}", 1) for number in range(3)]
    assert [plan.assign("copy", f"hash {number}", 1) for number in range(3)] == splits


def test_a_split_without_share_gets_nothing() -> None:
    sources = assign_all(SplitPlan((0.5, 0.5, 0)), [1] * 10)
    assert {s.split for s in sources} == {"train", "validation"}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, -0.1), (0.7, 0.2, 0.2)])
def test_fractions_must_add_up(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        SplitPlan(fractions)


def test_crops_of_one_field_of_view_share_a_group() -> None:
    assert group_of(Path("a/gold_c1.tif")) == group_of(Path("a/gold_c12.tif"))
    assert group_of(Path("a/gold_c1.tif")) == group_of(Path("a/gold.dm4"))
    assert group_of(Path("a/gold_c1.tif")) != group_of(Path("b/gold_c1.tif"))
    assert group_of(Path("a/gold_1.tif")) != group_of(Path("a/gold_2.tif"))
    assert group_of(Path("gold_1.tif"), r"_\d+$") == group_of(Path("gold_2.tif"), r"_\d+$")

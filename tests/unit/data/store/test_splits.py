"""Sources are split by field of view, in the wanted shares, and never move."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.data.examples import SPLITS, Split
from stem_complete.data.store import splits
from stem_complete.data.store.layout import Source
from stem_complete.data.store.splits import (
    CROP_OF_ONE_FIELD,
    SplitPlan,
    check_pattern,
    group_of,
)
from stem_complete.errors import ConfigError

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
    assert group_of(Path("a/gold_c1.tif"), CROP_OF_ONE_FIELD) == group_of(Path("a/gold_c2.tif"))
    assert group_of(Path("a/gold_1.tif"), CROP_OF_ONE_FIELD) != group_of(Path("a/gold.tif"))


@pytest.mark.parametrize(
    "names",
    [
        ("HAADF_0001.tif", "HAADF_0002.tif", "HAADF_0010.dm4"),
        ("HAADF_0001.tif", "BF_0001.tif", "dpc_x_0001.tif", "DPCy_0002.tif", "0003.tif"),
        ("gold_dpc_x_0001.tif", "gold_dpc_y_0001.tif", "gold_iDPC_0001.tif", "gold_dDPC_1.tif"),
        ("gold_HAADF.tif", "gold_BF.tif", "gold_abf.tif", "gold_ADF1.tif", "gold.dm4"),
        (
            "gold_DPC-x.tif",
            "gold_DPC A-C.tif",
            "gold_DPC_B-D.tif",
            "gold_com_x.tif",
            "gold_iCOM.tif",
        ),
        ("gold_DF-I_1.tif", "gold_DF-O_1.tif", "gold_DF4_1.tif", "gold_BF-S_1.tif"),
        ("gold_ch1_edge.tif", "gold_ch2_edge.tif", "gold_edge_SE.tif", "BSE_gold_edge.tif"),
        ("HAADF/gold.tif", "BF/gold.tif", "gold HAADF.tif", "gold/ABF.tif"),
        ("HAADF_BF_gold.tif", "gold_HAADF_BF.tif"),
        ("gold_seg1.tif", "gold_seg2.tif", "gold_quad A.tif", "gold_det0.tif", "gold.tif"),
        ("gold_InLens_1.tif", "gold_SE2_1.tif", "gold_ETD_1.tif", "gold_TLD_1.tif"),
        ("gold_pass1.tif", "gold_pass2.tif", "gold_rep01.tif", "gold_repeat 3.tif"),
        ("gold_shot1.tif", "gold_acq2.tif", "gold_sweep3.tif"),
        ("z001.tif", "z002.tif"),
        ("gold_2024-05_0001.tif", "gold_2024-05_0002.tif"),
        ("gold_2024-05-01_0001.tif", "gold_2024-05-01_0002.tif"),
        ("gold_df_10nm.tif", "gold_df_-20nm.tif", "gold_df30nm.tif"),
        ("20240501_103000_HAADF.tif", "20240501_103000_BF.tif"),
        ("gold_0001_HAADF_spot.tif", "gold_0001_BF_spot.tif"),
        ("gold_1.tif", "gold_2.tif", "gold_10.tif"),
        ("gold-001.tif", "gold-002.tif"),
        ("gold 1.tif", "gold (2).tif"),
        ("gold.0001.dm3", "gold.0002.dm3"),
        ("gold_frame1.tif", "gold_frame 2.tif"),
        ("frame0001.tif", "frame0002.tif"),
        ("0001.tif", "0002.tif"),
        ("scan_T0.ome.tif", "scan_T1.ome.tif", "scan_T2.ome.zarr", "scan_T3.zarr.zip"),
        ("gold_t001_z02.tif", "gold_t002_z01.tif"),
        ("gold_1.ser", "gold_2.ser"),
        ("go\nld_1.tif", "go\nld_2.tif"),
        ("gold0009.tif", "gold0010.tif", "gold1000.tif"),  # an image sequence of ImageJ
        ("gold_000009.tif", "gold_000010.tif", "gold_9.tif"),
        ("gold(1).tif", "gold(2).tif"),
        ("gold_01_HAADF.tif", "gold_02_HAADF.tif", "gold_02_BF.tif"),
        ("gold_1of20.tif", "gold_2of20.tif"),
        ("gold-frame-1-of-20.tif", "gold-frame-12-of-20.tif"),
        ("gold_t0s.tif", "gold_t10s.tif"),
        ("gold_t=0.5s.tif", "gold_t=12.25s.tif"),
        ("gold_tilt_-30deg.tif", "gold_tilt_+5.5deg.tif"),
        ("gold_0001_filtered.tif", "gold_0012_filtered.tif"),
        ("scan_00001-frame.tif", "scan_00002-frame.tif"),
        ("001_gold.tif", "002_gold.tif"),
        ("t001_gold_x.tif", "t002_gold_x.tif"),
        ("drift_20240501_103000.emd", "drift_20240501_104512.emd", "drift_20240502_000001.emd"),
        ("drift_2024-05-01T10-30-00.tif", "drift_2024-05-01T10-30-05.tif"),
        ("drift 2024-05-01 10.30.00.tif", "drift 2024-05-01 10.30.05.123.tif"),
        ("drift_20240501103000.tif", "drift_20240501103005.tif"),
        ("SI HAADF 1425 20220323.emd", "SI HAADF 1431 20220323.emd"),  # of Velox
        ("Capture_0_20240501_1030.tif", "Capture_12_20240501_1031.tif"),
        ("gold_20240501_1030_HAADF.tif", "gold_20240501_1031_BF.tif"),
        ("s_00_reg.tif", "s_09_reg.tif", "s_10_reg.tif", "s_100_reg.tif", "s_7.tif"),
        ("gold_1_HAADF_filtered.tif", "gold_12_BF_drift corrected.tif"),
        ("gold_001_filtered.tif", "gold_001_raw.tif", "gold_123_raw.tif"),
        ("gold_defocus_0nm.tif", "gold_defocus_-10nm.tif", "gold_defocus_2.5um_crop.tif"),
        ("defocus_0nm.tif", "defocus-10nm.tif"),
        ("gold_z0nm.tif", "gold_z-5.5nm.tif", "gold_z10nm.tif"),
        ("T0C.tif", "T25C.tif", "T1000C.tif"),
        ("gold_T0C.tif", "gold_T=600 C.tif", "gold_25C.tif", "gold_300K.tif"),
        ("gold_dose_10e.tif", "gold_dose_20.5e.tif"),
        ("gold_100kx.tif", "gold_5.1Mx.tif", "gold_80kV.tif", "gold_50pA.tif"),
        ("gold_tilt_-5.5.tif", "gold_tilt_60.tif"),
        ("ts_001_-60.0.mrc", "ts_041_0.0.mrc", "ts_081[60.00].mrc", "ts_[3].mrc"),
        (
            "a_Hour_00_Minute_01_Second_02_Frame_0003.dm4",
            "Hour_00/Minute_01/Second_59/a_Hour_00_Minute_01_Second_59_Frame_0000.dm4",
        ),
    ],
    ids=lambda names: names[0],
)
def test_numbered_frames_are_of_one_field_of_view(names: tuple[str, ...]) -> None:
    assert len({group_of(Path("a") / name) for name in names}) == 1
    assert group_of(Path("a") / names[0]) != group_of(Path("b") / names[0])


@pytest.mark.parametrize(
    "names",
    [
        ("gold_HAADF_0001.tif", "silver_BF_0001.tif"),
        ("gold_HAADF_spot.tif", "gold_HAADF_edge.tif", "gold_BF_rim.tif"),
        ("gold_BF_a.tif", "gold_BF_b.tif", "gold_dpc_c.tif"),
        ("HAADF/gold.tif", "HAADF/silver.tif"),
        ("day1/HAADF.tif", "day2/HAADF.tif"),
        ("In_Se.tif", "In.tif"),
        ("goldbf.tif", "gold.tif", "gold_bfx.tif"),
        ("com_1.tif", "gold_com_1.tif"),
        ("gold1.tif", "gold2.tif"),  # specimens, as likely as not
        ("image001.tif", "image002.tif"),
        ("20201021_141503.emd", "20201021_141611.emd"),  # times
        ("gold_a.tif", "gold_b.tif"),
        ("gold_Au5.tif", "gold_Au6.tif"),
        ("gold_5nm.tif", "gold_6nm.tif"),
        ("gold_001_spot.tif", "gold_001_edge.tif", "silver_001_raw.tif"),
        ("2026-01-02_gold.tif", "2026-01-03_gold.tif"),
        ("gold_20240501.tif", "gold_20240502.tif"),
        ("gold_2024-05-01.tif", "gold_2024-05-02.tif"),
        ("2024.05.01.tif", "2024.05.02.tif"),
        ("20240501_103000_HAADF.tif", "20240501_103500_HAADF.tif"),
        ("drift_20240501_103000_0001.tif", "drift_20240501_154500_0001.tif"),  # two series
        ("sample_1_overview.tif", "sample_2_overview.tif"),
        ("gold_alpha_1.tif", "gold_beta_1.tif"),
        ("gold_defocus_1.tif", "gold_tilt_1.tif"),
        ("gold_5C.tif", "gold_6C.tif"),  # squares of a grid
        ("5nm_gold.tif", "10nm_gold.tif"),
        ("600C_gold.tif", "700C_gold.tif"),
        ("overtime1.tif", "overtime2.tif"),
        ("gold_raw.tif", "silver_raw.tif"),
        ("sample_123456.tif", "sample_123457.tif"),
        ("gold_prep1.tif", "gold_prep2.tif"),
        ("f1.tif", "f2.tif", "t1.tif", "z1.tif"),
        ("gold_exp1.tif", "gold_exp2.tif"),
        ("gold_detail1.tif", "gold_detail2.tif", "gold_segregated.tif"),
    ],
    ids=lambda names: names[0],
)
def test_other_names_are_of_different_fields(names: tuple[str, ...]) -> None:
    assert len({group_of(Path("a") / name) for name in names}) == len(names)


def test_a_pattern_names_the_field_by_its_groups() -> None:
    files = [
        Path("day1/area7/HAADF_1.tif"),
        Path("day1/area8/HAADF_1.tif"),
        Path("day2/area7/x.tif"),
    ]
    assert [group_of(file, r"(area\d)/") for file in files] == ["area7", "area8", "area7"]
    by_day = [group_of(file, r"(day\d)/(area\d)/") for file in files]
    assert by_day == ["day1/area7", "day1/area8", "day2/area7"]
    assert group_of(Path("other.tif"), r"(area\d)/") == str(Path("other").resolve())  # its own


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(", "unterminated"),
        ("area", "without a group"),
        ("(?:area)", "without a group"),
        ("(zone)", r"matches nothing in 1, such as .*area7/x"),
        ("(zone)?", r"matches nothing in 1, such as .*area7/x"),
    ],
)
def test_a_bad_pattern_is_one_line(pattern: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as caught:
        check_pattern(pattern, [Path("area7/x.tif")])
    assert "\n" not in str(caught.value)


def test_a_file_of_which_a_pattern_matches_nothing_is_its_own_field() -> None:
    assert group_of(Path("a/x.tif"), r"(area\d)?") != group_of(Path("a/y.tif"), r"(area\d)?")


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_LONGEST_SEARCH", 0.05)
    with pytest.raises(ConfigError, match="searched for quickly"):
        check_pattern("(a+)+!", [Path("a" * 40 + ".tif")])


TIES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=8)


@given(TIES, st.permutations("abcdef"))
def test_groups_that_are_tied_are_one_field_in_one_split(
    ties: list[tuple[str, str]], order: list[str]
) -> None:
    plan = SplitPlan(FRACTIONS)
    assert all(plan.tie(*tie) for tie in ties)
    splits = {group: plan.assign(group, f"hash of {group}", 5) for group in order}
    for one, other in ties:
        assert plan.field_of(one) == plan.field_of(other)
        assert splits[one] == splits[other]
    assert plan.num_fields == len({plan.field_of(group) for group in order})


@given(TIES)
def test_a_tie_moves_no_group_that_has_its_split(ties: list[tuple[str, str]]) -> None:
    plan = SplitPlan(FRACTIONS)
    splits = {group: plan.assign(group, f"hash of {group}", 5) for group in "abc"}
    for one, other in ties:
        is_tied = plan.tie(one, other)
        both = plan.split_of(one), plan.split_of(other)
        assert is_tied == (both[0] == both[1])
        if not is_tied:
            assert None not in both
    assert {group: plan.split_of(group) for group in "abc"} == splits


def test_a_field_of_several_groups_is_counted_as_one() -> None:
    plan = SplitPlan(FRACTIONS)
    plan.tie("a", "b")
    for group, num_crops in (("a", 3), ("b", 4), ("c", 5)):
        plan.assign(group, f"hash of {group}", num_crops)
    assert plan.largest == ("b", "train", 2, 2, 7 / 12)
    assert (plan.num_fields, plan.num_files) == (2, 3)


def test_frames_stay_with_those_that_an_older_version_took_for_fields() -> None:
    known = [source(f"gold_{number}", split, 3) for number, split in enumerate(SPLITS)]
    plan = SplitPlan(FRACTIONS, known)
    assert plan.assign(group_of(Path("gold_7.tif")), "new", 9) == SPLITS[0]


def test_splits_that_got_nothing_are_told() -> None:
    plan = SplitPlan((0.8, 0.2, 0))
    plan.assign("a", "x", 5)
    plan.assign("a", "y", 5)
    assert (plan.empty, plan.num_fields) == (["validation"], 1)
    plan.assign("b", "z", 1)
    assert (plan.empty, plan.num_fields) == ([], 2)

"""Configs of earlier versions still open."""

import logging

import pytest

from stem_complete.config import AugmentationConfig, ScanConfig, validate_config
from stem_complete.config.upgrade import upgrade


def test_moved_keys_have_their_new_place():
    before = {"scan": {"max_zoom": 2, "coverage": 0.1}, "name": "a"}
    after = {"scan": {"coverage": 0.1}, "augmentation": {"max_zoom": 2}, "name": "a"}
    assert upgrade(before) == after
    assert upgrade(after) == after
    assert before["scan"] == {"max_zoom": 2, "coverage": 0.1}


@pytest.mark.parametrize("values", [{}, {"scan": None}, {"scan": 3}, {"data": []}])
def test_what_is_no_config_stays_as_it_is(values):
    assert upgrade(values) == values


def test_synthetic_micrographs_are_a_removed_key(caplog):
    with caplog.at_level(logging.WARNING):
        assert upgrade({"data": {"store": "s", "synthetic": 0.0}}) == {"data": {"store": "s"}}
        assert not caplog.records
        upgrade({"data": {"synthetic": 0.3}})
    assert "data.synthetic = 0.3" in caplog.text


BEFORE = {
    "data": {"store": "store.zarr"},
    "recipe": "ours",
    "scan": {
        "coverage": 0.05,
        "geometry": "archimedean",
        "coverage_definition": "exact",
        "more_coverages": [0.1, 0.02],
        "more_geometries": ["drawn"],
        "noisy_fraction": 0.5,
        "augment": True,
        "max_zoom": 3.0,
        "crop_px": 256,
        "contrast": True,
    },
    "model": {"preset": "ours", "sizes": {"gates": 0}},
}


def test_a_config_written_before_augmentation_had_a_section_still_opens():
    config = validate_config(BEFORE, where="before")
    assert config.scan == ScanConfig(coverage=0.05)
    assert config.augmentation == AugmentationConfig(
        max_zoom=3.0,
        crop_px=256,
        contrast=True,
        geometries=("drawn",),
        coverages=(0.1, 0.02),
        noisy_fraction=0.5,
    )
    assert (config.recipe, config.model.preset) == ("any-dose", "any-dose")
    again = validate_config(config.model_dump(mode="json"), where="after")
    assert again == config
    assert again.model.sizes.model_dump() == {"gates": 0}


@pytest.mark.parametrize(("before", "norm"), [(True, "mean"), (False, "none"), (None, None)])
def test_mean_norm_was_all_there_was(before, norm):
    model = {"preset": "compact", "sizes": {"mean_norm": before, "gates": 0}}
    config = validate_config(BEFORE | {"model": model}, where="before")
    assert config.model.norm == norm
    assert config.model.changes == {"gates": 0} | ({"norm": norm} if norm else {})


def test_a_run_without_augmentation_stays_without():
    scan = BEFORE["scan"] | {"augment": False}
    assert validate_config(BEFORE | {"scan": scan}, where="before").augmentation is None


def test_nominal_coverages_are_a_geometry():
    scan = {"coverage_definition": "nominal", "geometry": "archimedean"}
    assert upgrade({"scan": scan}) == {"scan": {"geometry": "nominal"}}
    scan = {"coverage_definition": "exact", "geometry": "nominal"}
    assert upgrade({"scan": scan}) == {"scan": {"geometry": "archimedean"}}


def test_a_recipe_that_was_called_ours_is_named_after_its_network():
    small = {"recipe": "ours", "model": {"preset": "compact"}}
    assert upgrade(small) == small | {"recipe": "compact"}


def test_both_generators_were_one_group():
    stages = [{"start": 0, "factors": {"generator": 2, "trainer": 3}, "frozen": ["generator"]}]
    (stage,) = upgrade({"optimizer": {"stages": stages}})["optimizer"]["stages"]
    assert stage["factors"] == {"*_generator": 2, "trainer": 3}
    assert stage["frozen"] == ["*_generator"]
    assert stages[0]["frozen"] == ["generator"]  # what was given is not changed

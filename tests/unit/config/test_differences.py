"""What a reader is told of a config."""

from __future__ import annotations

import pytest

from stem_complete.config import BUNDLED, differences, in_lines, load_config


def different(*arguments: str) -> dict[str, object]:
    files = [argument for argument in arguments if "=" not in argument]
    changes = ["data.store=x", *(argument for argument in arguments if "=" in argument)]
    return differences(load_config(files, changes).model_dump(mode="json"))


def test_the_defaults_differ_in_nothing() -> None:
    assert different("name=mine", "storage=/elsewhere") == {}
    assert in_lines({}) == []


def test_values_that_are_not_the_default_are_told() -> None:
    found = different("training.steps=7", "scan.noise.kind=detector", "loss.alrc=null")
    assert found == {
        "scan.noise.kind": "detector",
        "scan.noise.dose_electrons_per_px": 100.0,
        "scan.noise.background_electrons_per_px": 0.0,
        "scan.noise.readout_std_electrons": 0.0,
        "scan.noise.gain": None,
        "scan.noise.offset": 0.0,
        "scan.noise.afterglow_dwells": 0.0,
        "loss.alrc": None,
        "training.steps": 7,
    }


def test_a_section_is_a_line() -> None:
    lines = in_lines({"training.steps": 7, "scan.coverage": 0.1, "training.seed": 1, "sweep": None})
    assert lines == ["training  steps=7 seed=1", "scan      coverage=0.1", "sweep     sweep=null"]


def test_a_long_section_ends_in_dots() -> None:
    many = {f"sweep.arms.arm-{number}.loss.power": 4 for number in range(100)}
    lines = in_lines(many | {"training.steps": 7})
    assert len(lines) == 11
    assert lines[9].strip() == "..."
    assert lines[10] == "training  steps=7"


@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.yaml")))
def test_what_a_bundled_config_changes_fits_a_part_of_a_screen(name: str) -> None:
    lines = in_lines(different(name))
    assert len(lines) <= 16
    assert max(map(len, lines), default=0) <= 79

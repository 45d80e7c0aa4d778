"""Every bundled config is valid, and says what it is meant to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stem_complete.config import BUNDLED, Config, expand_sweep, find_config, load_config
from stem_complete.errors import ConfigError
from stem_complete.training.schedule import build_schedule

FILES = sorted(BUNDLED.glob("*.yaml"))


def differences(config: Config, base: Config) -> dict[str, Any]:
    def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flat = {}
        for key, value in values.items():
            nested = isinstance(value, dict)
            flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
        return flat

    left, right = flatten(config.model_dump()), flatten(base.model_dump())
    return {key: value for key, value in left.items() if right.get(key, ...) != value}


def test_there_are_configs() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"paper", "reference_code", "comparison", "compact"}


@pytest.mark.parametrize("name", ["compact", "compact.yaml", "configs/compact.yaml"])
def test_a_bundled_config_is_found_by_its_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == BUNDLED / "compact.yaml"
    (tmp_path / "compact").mkdir()
    assert find_config(name) == BUNDLED / "compact.yaml"


def test_a_file_of_ones_own_comes_before_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compact.yaml").write_text("name: mine\n")
    assert load_config(["compact.yaml"], ["data.store=/s"]).name == "mine"
    assert load_config(["compact"]).name == "compact"


@pytest.mark.parametrize("name", ["compat", "compat.yaml", "elsewhere/compact.yaml"])
def test_a_config_that_is_not_there_is_an_error_that_lists_the_bundled_ones(name):
    with pytest.raises(
        ConfigError, match="any_dose, any_scan, classification, clipping, compact, comparison, comp"
    ):
        load_config([name])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_loads(file: Path) -> None:
    config = load_config([file])
    for run in expand_sweep(config):
        assert run.sweep is None
    assert load_config([file], ["data.store=/data/other.zarr"]).data.store.is_absolute()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_says_why(file: Path) -> None:
    assert file.read_text().startswith("# ")


def test_paper_is_the_schemas_defaults() -> None:
    defaults = Config.model_validate({"data": {"store": "store.zarr"}})
    assert differences(load_config(["paper"]), defaults) == {"scaling.use_gpu": True}


def test_reference_code_differs_from_the_paper_where_it_should() -> None:
    paper = load_config(["paper"])
    assert differences(load_config(["reference_code"]), paper) == {
        "name": "reference-code",
        "recipe": "reference-code",
        "scan.geometry": "nominal",
        "scan.sample": "original",
        "model.weight_norm_init": False,
        "model.bias": True,
        "model.mean_norm_at_inference": "image",
        "model.reference_layers": True,
        "model.encoding": "reference",
        "loss.alrc.moments": "clipped",
        "loss.alrc.variance_floor": 1e-8,
        "optimizer.trainer_learning_rate_ratio": 1.0,
        "optimizer.beta1_end": 0.9,
        "training.freeze_mean_norm": 1.0,
        "training.hard_examples.probability": 0.2,
        "training.hard_examples.kept": 50,
    }


def test_the_published_cifar_code_differs_in_its_loss_only() -> None:
    ours = load_config(["supersampling"])
    published = load_config(["supersampling", "supersampling_reference"])
    assert published.loss.weight == 25
    assert differences(published, ours) == {
        "name": "supersampling-reference",
        "recipe": "reference-code",
        "loss.root_above": 50,
        "loss.alrc.moments": "clipped",
        "loss.alrc.variance_floor": 1e-8,
        "loss.alrc.decay": (0.997, 0.997),
        "loss.alrc.intake": 0.001,
    }


def test_arms_of_the_comparison_at_two_rates_do_what_their_names_say() -> None:
    below = load_config(["compact"])
    runs = expand_sweep(load_config(["compact", "comparison_rates"], ["sweep.seeds=[0]"]))
    arms = [run.name.removesuffix("-seed0").split("-", 2) for run in runs]
    of_each = ["none", "alrc", "huber", "alrc-huber"]
    assert arms == [
        [rate, error, arm]
        for rate in ("stable", "unstable")
        for error, of_error in (("squared", of_each), ("quartic", of_each[:2]))
        for arm in of_error
    ]
    for run, (rate, error, arm) in zip(runs, arms, strict=True):
        assert run.loss.power == {"squared": 2, "quartic": 4}[error]
        assert run.loss.alrc == (below.loss.alrc if "alrc" in arm else None)
        assert run.loss.huber == ("huber" in arm)
        assert run.optimizer.learning_rate == {"stable": 1e-3, "unstable": 1.6e-2}[rate]


@pytest.mark.parametrize("base", ["paper", "reference_code", "compact"])
def test_arms_of_the_comparison_differ_in_their_loss_only(base: str) -> None:
    files = [base, "comparison"]
    below = load_config(files[:1])
    runs = {run.name: run for run in expand_sweep(load_config(files, ["sweep.seeds=[0,1]"]))}
    expected = {
        "mse": (None, False),
        "huber": (None, True),
        "alrc": (below.loss.alrc, False),
        "alrc-huber": (below.loss.alrc, True),
    }
    assert runs.keys() == {f"{arm}-seed{seed}" for arm in expected for seed in (0, 1)}
    for arm, (alrc, huber) in expected.items():
        for seed in (0, 1):
            run = runs[f"{arm}-seed{seed}"]
            assert (run.loss.alrc, run.loss.huber) == (alrc, huber)
            assert run.training.seed == seed
            assert {key.split(".")[0] for key in differences(run, below)} - {"loss"} <= {
                "name",
                "storage",
                "training",
                "tracking",
            }
            assert run.run_folder == Path("runs/comparison") / run.name


def test_arms_of_stability_in_completion_do_what_their_names_say() -> None:
    """From the start; and at its middle and end, in units of the first rates, 0 where frozen."""
    groups = ["inner_generator", "outer_generator", "trainer"]
    sweep = load_config(["compact", "stability_completion"], ["sweep.seeds=[0]"])
    runs = {run.name.removesuffix("-seed0"): run for run in expand_sweep(sweep)}
    one_by_one = [f"{kind}-{group}" for kind in ("decay", "only") for group in groups]
    assert list(runs) == ["constant", "decay-all", *one_by_one]
    for arm, run in runs.items():
        schedule = build_schedule(run, [*groups, "running_means"])
        kind, _, group = arm.partition("-")
        first = {name: schedule.at(0).rate(name) for name in groups}
        assert first == {"inner_generator": 1e-3, "outer_generator": 1e-3, "trainer": 2e-3}
        for step, decayed in ((1124, 1), (1125, 0.1), (2249, 0.1), (2250, 0.01), (2999, 0.01)):
            stage = schedule.at(step)
            frozen = stage.freezes(groups)
            for name in groups:
                found = 0 if name in frozen else stage.rate(name) / first[name]
                of_arm = name == group or group == "all"
                expected = {"constant": 1, "decay": decayed if of_arm else 1, "only": int(of_arm)}
                before = decayed == 1
                assert found == pytest.approx(1 if before else expected[kind]), (arm, step, name)

"""Every file in `configs/` is a valid config, and says what it is meant to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stem_complete.config import Config, expand_sweep, load_config

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


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
    assert differences(load_config([CONFIGS / "paper.yaml"]), defaults) == {"scaling.use_gpu": True}


def test_reference_code_differs_from_the_paper_where_it_should() -> None:
    paper = load_config([CONFIGS / "paper.yaml"])
    assert differences(load_config([CONFIGS / "reference_code.yaml"]), paper) == {
        "name": "reference-code",
        "recipe": "reference-code",
        "scan.coverage_definition": "nominal",
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
    }


@pytest.mark.parametrize("base", ["paper", "reference_code", "compact"])
def test_arms_of_the_comparison_differ_in_their_loss_only(base: str) -> None:
    files = [CONFIGS / f"{base}.yaml", CONFIGS / "comparison.yaml"]
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

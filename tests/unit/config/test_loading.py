from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from stem_complete.config import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    ALRCConfig,
    Config,
    DetectorNoiseConfig,
    NoNoiseConfig,
    expand_sweep,
    load_config,
    shortened,
)
from stem_complete.errors import ConfigError
from stem_complete.training.schedule import build_schedule

STORE = "data.store=store.zarr"


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def load(*overrides: str) -> Config:
    return load_config([], [STORE, *overrides])


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    line = str(error.value)
    assert "\n" not in line
    assert error.value.exit_code == 2
    return line


def test_defaults_need_a_store_only() -> None:
    assert load() == Config.model_validate({"data": {"store": "store.zarr"}})
    with pytest.raises(ConfigError, match=r"valid data, found nothing"):
        load_config([])


def test_later_files_and_then_overrides_win(tmp_path: Path) -> None:
    first = write(tmp_path, "data: {store: a}\ntraining: {steps: 1, seed: 1}\nname: one", "1.yaml")
    second = write(tmp_path, "training: {steps: 2}", "2.yaml")
    empty = write(tmp_path, "# nothing\n", "3.yaml")
    config = load_config([first, second, empty], ["data.store=b"])
    assert (config.training.steps, config.training.seed, config.name) == (2, 1, "one")
    assert config.data.store == Path("b")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "'1e-4'"])
def test_numbers_that_yaml_takes_for_text(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, f"data: {{store: a}}\noptimizer: {{learning_rate: {text}}}")
    assert load_config([file]).optimizer.learning_rate == 1e-4
    assert load(f"optimizer.learning_rate={text}").optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.steps=1000", lambda c: c.training.steps == 1000),
        ("scaling.use_gpu=true", lambda c: c.scaling.use_gpu is True),
        ("loss.alrc=null", lambda c: c.loss.alrc is None),
        ("loss.alrc.decay=[0.9,0.99]", lambda c: c.loss.alrc.decay == (0.9, 0.99)),
        ("tracking.uri=http://host:5000", lambda c: c.tracking.uri == "http://host:5000"),
        ("name=a=b", None),
        ("storage=/data/a=b", lambda c: c.storage == "/data/a=b"),
        ("scan.noise.kind=none", lambda c: c.scan.noise == NoNoiseConfig()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_overrides(override: str, read) -> None:
    if read is None:
        error_of(override)
    else:
        assert read(load(override))


def test_another_kind_of_noise_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "data: {store: a}\nscan: {noise: {kind: detector, dose_electrons_per_px: 7}}",
    )
    assert load_config([file], ["scan.noise.kind=none"]).scan.noise == NoNoiseConfig()
    more = load_config([file], ["scan.noise.readout_std_electrons=2"]).scan.noise
    assert more == DetectorNoiseConfig(dose_electrons_per_px=7, readout_std_electrons=2)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.stepps=1", ["unknown key 'training.stepps'", "steps", "batch_size"]),
        ("trainning.steps=1", ["unknown key 'trainning'", "training"]),
        ("loss.alrc.stddev=3", ["unknown key 'loss.alrc.stddev'", "num_stddev"]),
        ("scan.noise={kind: detector, dose: 3}", ["unknown key 'scan.noise.dose'"]),
        ("scan.noise.dose=3", ["valid scan.noise", "'kind'"]),
        ("training.steps=many", ["valid training.steps", "'many'"]),
        ("training.steps=0", ["valid training.steps", "greater than 0"]),
        ("training.freeze_mean_norm=1.5", ["valid training.freeze_mean_norm", "1.5"]),
        ("training.weight_average=1", ["valid training.weight_average", "less than 1"]),
        ("loss.alrc.num_stddev_below=0", ["valid loss.alrc.num_stddev_below", "greater than 0"]),
        ("model.preset=huge", ["valid model.preset", "'huge'", "'compact'"]),
        ("scan.noise.kind=loud", ["valid scan.noise", "loud"]),
        ("scan.geometry=square", ["valid scan.geometry", "'square'", "'drawn'"]),
        ("model.sizes.wide=3", ["unknown key 'model.sizes.wide'", "inner_widths", "gates"]),
        ("model.sizes.patch=0", ["valid model.sizes.patch", "greater than 0"]),
        ("loss.alrc.mu1_start=40", ["valid loss.alrc", "mu1_start^2 must be below mu2_start"]),
        ("training.batch_size=3", []),
        ("scaling={num_workers: 2, min_workers: 3}", ["min_workers (3) must not exceed"]),
        ("name=a b", ["valid name", "'a b'"]),
        ("training=5", ["valid training", "5"]),
        ("training.steps", ["section.field=value", "training.steps=1000"]),
        ("=5", ["section.field=value"]),
        ("name=[", ["a YAML value", "name=["]),
        ("sweep.only=[*-none]", ["found undefined alias '-none';", "names that begin with *"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_lines(override: str, parts: list[str]) -> None:
    if not parts:
        assert load(override).training.batch_size == 3
        return
    line = error_of(override)
    for part in parts:
        assert part in line
    assert override.split("=")[0] in line or "section.field" in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["training.steps=0", "training.seed=1", "name=a"], ["training.steps=0"]),
        (["scan={coverage: 7}", "training.seed=1"], ["scan={coverage: 7}"]),
        (
            ["scaling.num_workers=2", "training.batch_size=3", "training.steps=1"],
            ["training.batch_size=3"],
        ),
        (["name=a", "training.colour=blue"], ["training.colour=blue"]),
    ],
)
def test_an_error_names_the_changes_that_it_is_about(changes: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(["compact"], ["data.store=s.zarr", *changes])
    assert str(error.value).startswith(f"{' + '.join(['compact', *named])}: expected ")


def test_an_error_names_its_file_and_counts_the_others(tmp_path: Path) -> None:
    file = write(tmp_path, "data: {store: a}\ntraining: {steps: x, seed: y}")
    with pytest.raises(ConfigError, match=rf"{file}.*\(and 1 more\)"):
        load_config([file])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [1", "YAML"), ("- 1\n- 2", "a mapping of sections"), ("5", "found a int")],
    ids=["broken", "list", "number"],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=expected) as error:
        load_config([file])
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config([tmp_path / "none.yaml"])
    with pytest.raises(ConfigError, match="found a folder"):
        load_config([tmp_path])
    binary = tmp_path / "image.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected YAML"):
        load_config([binary])


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = write(tmp_path, f"name: !!python/object/apply:pathlib.Path.touch ['{marker}']")
    with pytest.raises(ConfigError):
        load_config([file])
    assert not marker.exists()


@pytest.mark.parametrize("value", ["0", "-0.1", "1.01", "20", "nan", "inf", "1/0", "a", "", "null"])
def test_coverage_outside_of_its_range(value: str) -> None:
    assert "valid scan.coverage" in error_of(f"scan.coverage={value}")


@pytest.mark.parametrize(("percent", "fraction"), [("5", "0.05"), ("20", "0.2"), ("2.5", "0.025")])
def test_coverage_above_one_is_taken_for_a_percentage(percent: str, fraction: str) -> None:
    assert error_of(f"scan.coverage={percent}").endswith(f"did you mean {fraction}?")


def test_coverage_is_a_fraction_to_the_last_digit() -> None:
    assert load("scan.coverage=1/20").scan.coverage == float(Fraction(1, 20))


def test_a_sweep_is_one_run_for_each_arm_and_seed() -> None:
    sweep = "{seeds: [3, 5], arms: {mse: {loss: {alrc: null}}, fast: {training: {steps: 9}}}}"
    config = load(f"sweep={sweep}", "name=study", "storage=/data", "loss.weight=7")
    runs = {run.name: run for run in expand_sweep(config)}
    assert list(runs) == ["mse-seed3", "fast-seed3", "mse-seed5", "fast-seed5"]
    assert runs["mse-seed5"].loss.alrc is None
    assert runs["fast-seed3"].loss.alrc == ALRCConfig()
    assert [run.training.steps for run in runs.values()] == [500_000, 9, 500_000, 9]
    assert [run.training.seed for run in runs.values()] == [3, 3, 5, 5]
    for name, run in runs.items():
        assert run.run_folder == Path("/data/study") / name
        assert run.loss.weight == 7
        assert run.sweep is None
        # A run of a sweep is a run like any other: its config can be saved and loaded again.
        assert Config.model_validate(run.model_dump(mode="json")) == run


@pytest.mark.parametrize(
    ("only", "expected"),
    [("[b]", ["b"]), ("[b-*, a]", ["a", "b-2"]), ("['*']", ["a", "b", "b-2"]), ("null", None)],
)
def test_some_arms_of_a_sweep_alone_may_be_trained(only: str, expected: list[str] | None) -> None:
    arms = "{a: {}, b: {loss: {power: 4}}, b-2: {loss: {alrc: null}}}"
    runs = expand_sweep(load(f"sweep={{arms: {arms}}}", f"sweep.only={only}"))
    names = [run.name.removesuffix("-seed0") for run in runs]
    assert names == (expected or ["a", "b", "b-2"])


def test_arms_that_a_sweep_has_not_are_refused() -> None:
    message = error_of("sweep={arms: {mse: {}, alrc: {}}}", "sweep.only=[mse, huber*]")
    assert "huber* is none of the arms; correct it, or take one of mse, alrc" in message


def test_a_config_without_a_sweep_is_itself() -> None:
    config = load()
    assert expand_sweep(config) == [config]


def test_an_arm_may_switch_on_what_its_base_leaves_out() -> None:
    config = load("loss.alrc=null", "sweep={arms: {alrc: {loss: {alrc: {}}}}}")
    assert expand_sweep(config)[0].loss.alrc == ALRCConfig()


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("{arms: {a: {loss: {alrrc: null}}}}", "sweep.arms.a"),
        ("{arms: {a b: {}}}", "sweep.arms.a b"),
        ("{arms: {a: {training: {steps: 0}}}}", "valid training.steps"),
    ],
)
def test_a_bad_arm_is_named(sweep: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        expand_sweep(load(f"sweep={sweep}"))


@pytest.mark.parametrize("sweep", ["{arms: {}}", "{arms: {a: {}}, seeds: []}", "{}"])
def test_an_empty_sweep_is_an_error(sweep: str) -> None:
    assert "valid sweep" in error_of(f"sweep={sweep}")


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().training.steps = 1


def test_micro_batches_divide_a_workers_share() -> None:
    config = load("training.batch_size=12", "scaling.num_workers=2")
    assert config.micro_batch_size(2) == 6
    assert config.micro_batch_size(3) == 4
    assert "micro_batch_size (4)" in error_of(
        "training.batch_size=12", "scaling.num_workers=2", "training.micro_batch_size=4"
    )


def test_batch_norm_and_micro_batches_are_refused() -> None:
    assert "add training.micro_batch_size=null" in error_of(
        "model.norm=batch", "training.batch_size=4", "training.micro_batch_size=2"
    )


def test_an_elastic_run_shares_its_batch_equally_at_every_size() -> None:
    elastic = "scaling.num_workers=4", "scaling.min_workers=1"
    assert list(load("training.batch_size=12", *elastic).scaling.world_sizes) == [1, 2, 3, 4]
    error = error_of("training.batch_size=4", *elastic)
    assert "training.batch_size (4) must be a multiple of the number of workers (3)" in error
    assert list(load("training.batch_size=4", "scaling.num_workers=2").scaling.world_sizes) == [2]
    assert "min_workers (2) must not exceed num_workers (1)" in error_of("scaling.min_workers=2")


def test_storage_is_a_path_or_a_url() -> None:
    local = load("storage=some/runs", "name=a").run_folder
    assert isinstance(local, Path)
    assert local == Path("some/runs/a")
    remote = load("storage=s3://bucket/runs", "name=a").run_folder
    assert not isinstance(remote, Path)
    assert str(remote) == "s3://bucket/runs/a"


def test_a_batch_is_one_example_for_each_worker_unless_said_otherwise() -> None:
    assert load().batch_size == 1
    assert load("scaling.num_workers=8").batch_size == 8
    assert load("scaling.num_workers=8", "training.batch_size=16").batch_size == 16


def a_run(folder: Path, **values: str) -> Path:
    (folder / CHECKPOINTS_FOLDER).mkdir(parents=True)
    config = folder / CONFIG_FILE
    config.write_text(yaml.safe_dump({"data": {"store": "s.zarr"}, **values}))
    return config


def test_the_config_of_a_run_that_was_moved_means_it_where_it_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"name": "a", "storage": str(tmp_path / "before")}
    moved = a_run(tmp_path / "now" / "sweep" / "b", **said)
    config = load_config([moved])
    assert (config.name, config.storage) == ("b", str(tmp_path / "now" / "sweep"))
    assert "it goes on where it is now" in caplog.text
    assert load_config([moved], ["storage=/elsewhere"]).storage == "/elsewhere"
    caplog.clear()
    there = a_run(tmp_path / "before" / "a", **said)
    assert load_config([there]).run_folder == tmp_path / "before" / "a"
    (tmp_path / "link").symlink_to(tmp_path / "before")
    linked = tmp_path / "link" / "a" / CONFIG_FILE
    assert load_config([linked]).storage == said["storage"]
    copied = tmp_path / CONFIG_FILE  # without its run
    copied.write_text(moved.read_text())
    assert load_config([copied]).run_folder == tmp_path / "before" / "a"
    assert caplog.text == ""


def test_a_shorter_version_has_a_fraction_of_the_steps_and_its_stages_follow() -> None:
    whole = load_config(["supersampling", "table_1_batch_64"], ["data.store=/s"])
    short = shortened(whole, 0.1)
    changes = {"steps": 10_000, "validate_every_steps": 1_000, "checkpoint_every_steps": 200}
    training = whole.training.model_copy(update=changes)
    assert short == whole.model_copy(update={"training": training})
    runs = expand_sweep(short)
    assert {run.training.steps for run in runs} == {10_000}
    stages = build_schedule(runs[0], ()).stages
    assert [stage.start for stage in stages] == [0, 5_469]
    assert shortened(load_config(["compact"], ["data.store=/s"]), 1e-9).training.steps == 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="--fraction: expected a fraction above 0 and up to 1"):
        shortened(load_config(["compact"], ["data.store=/s"]), fraction)

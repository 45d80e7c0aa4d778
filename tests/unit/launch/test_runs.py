"""From a config to finished runs; training, tracking and export are replaced."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
import yaml

from stem_complete.config import Config
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.examples import record_of
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import BusyError, ConfigError, StoreError, TrainingError
from stem_complete.launch import launch, preparation, ray_group, recording, runs
from stem_complete.launch.preparation import prepared
from stem_complete.storage.claim import CLAIM_FILE, ClaimLostError, claimed
from stem_complete.training import Checkpoints, Recorders, TrainingResult
from stem_complete.training.ending import DivergedError, read_ending

DONE = TrainingResult(6, {"train/outer_loss": 0.5}, finished=True)


class Tracked(str):
    """Stands for a run of MLflow by its name."""

    uri, experiment_id, run_id = "http://mlflow", "1", "2"


class World:
    """Stands for training, MLflow and export, and notes in `log` what is asked of them."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.outcome: object = DONE

    def train(self, config, context, *, recorder, stop, claim):
        self.log.append(("train", config.name, context.world_size))
        if callable(self.outcome):
            return self.outcome(config)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        if isinstance(self.outcome, signal.Signals):
            stop.on_signal(self.outcome, None)
            return TrainingResult(4, {}, finished=False)
        return self.outcome

    def open_run(self, config, uri, *, parent, resume):
        self.log.append(("open", config.name, parent, "resume" if resume else "anew"))
        return Tracked(f"run of {config.name}")

    def finish_run(self, run, status):
        self.log.append(("finish", run, status))

    def export_checkpoint(self, folder, model, *, which, progress):
        self.log.append(("export", folder.name, model.name, which))


@pytest.fixture
def world(monkeypatch) -> World:
    world = World()
    for module, name in (
        (runs, "train"),
        (runs, "export_checkpoint"),
        (recording, "open_run"),
        (recording, "finish_run"),
    ):
        monkeypatch.setattr(module, name, getattr(world, name))
    monkeypatch.setattr(recording, "MlflowRecorder", lambda _: Recorders())
    monkeypatch.setattr(recording, "system_metrics", lambda *_: nullcontext())
    return world


TRACKED = "tracking.enabled=true"


def save(config: Config, step: int = 2, **changes: object) -> None:
    """A checkpoint of a run; `changes` to its config as it was then."""
    checkpoints = Checkpoints(config.run_folder)
    checkpoints.save(
        step,
        {"task": {}},
        config=config.model_dump(mode="json") | changes,
        metrics={"train/outer_loss": 0.25},
        score=None,
        examples=record_of(MicrographStore(config.data.store)),
    )
    checkpoints.wait()


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_is_trained_tracked_and_exported(world, small_config):
    (outcome,) = launch(small_config(TRACKED), local=True)
    assert world.log == [
        ("open", "run", None, "anew"),
        ("train", "run", 1),
        ("export", "run", "model", "last"),
        ("finish", "run of run", "FINISHED"),
    ]
    assert outcome.result == DONE
    assert outcome.model == outcome.config.run_folder / "model"
    assert outcome.tracking_uri.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("time", "as an hour was over; started again, it goes on"),
        ("patience", "as an hour was over; it is finished, unless training.patience is raised"),
    ],
)
def test_a_run_that_ended_early_says_why_and_is_exported(world, small_config, capsys, cause, said):
    world.outcome = TrainingResult(4, {}, True, cause, "an hour was over")
    config = small_config(TRACKED, "training.export=best")
    launch(config, local=True)
    assert world.log[-2:] == [
        ("export", "run", "model", "best"),
        ("finish", "run of run", "FINISHED"),
    ]
    assert f"run ended after 4 of 6 steps, {said}" in capsys.readouterr().err
    ending = read_ending(config.run_folder)
    assert (ending.cause, ending.words) == (cause, "an hour was over")


def test_without_tracking_there_is_no_mlflow_run(world, small_config):
    (outcome,) = launch(small_config("tracking.enabled=false"), local=True)
    assert [entry[0] for entry in world.log] == ["train", "export"]
    assert outcome.tracking_uri is None


def test_the_resolved_config_lies_beside_the_run(world, small_config):
    (outcome,) = launch(small_config(), local=True)
    saved = yaml.safe_load((outcome.config.run_folder / "config.yaml").read_text())
    assert saved == outcome.config.model_dump(mode="json")


def test_what_is_told_fits_a_screen_and_leads_to_the_curves(world, small_config, capsys):
    (outcome,) = launch(small_config(TRACKED, "training.steps=3"), local=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 24
    assert any(line.startswith("  training") and "steps=3" in line for line in lines)
    assert any(f"{outcome.config.run_folder}/config.yaml has all" in line for line in lines)
    curves = "http://mlflow/#/experiments/1/runs/2/model-metrics?workflowType=machine_learning"
    assert sum(curves in line for line in lines) == 2  # before training, and after it
    assert outcome.places["curves"] == curves


def test_with_a_checkpoint_the_mlflow_run_is_found_and_without_it_begun_anew(world, small_config):
    config = small_config(TRACKED)
    launch(config, local=True)
    save(config)
    launch(config, local=True)
    assert [entry[-1] for entry in world.log if entry[0] == "open"] == ["anew", "resume"]


def test_runs_of_a_sweep_are_trained_in_turn_under_one_parent(world, small_config):
    config = small_config(TRACKED, "sweep.arms={mse: {}, huber: {}}", "sweep.seeds=[0, 1]")
    outcomes = launch(config, local=True)
    names = [outcome.config.name for outcome in outcomes]
    assert len(set(names)) == 4
    assert [entry[1] for entry in world.log if entry[0] == "train"] == names
    parents = [entry[2:] for entry in world.log if entry[0] == "open"]
    assert parents == [(None, "resume"), *[("run of run", "anew")] * 4]
    assert world.log[-1] == ("finish", "run of run", "FINISHED")


class TestASweepOnRay:
    """Without Ray: runs are trained by a function, and the cluster has room for all of them."""

    @pytest.fixture
    def train(self, world, monkeypatch):
        """Sets what trains a run; the sizes of clusters that were started."""
        clusters = []

        @contextmanager
        def cluster(scaling):
            clusters.append(scaling.num_workers)
            yield

        def set_training(training):
            monkeypatch.setattr(ray_group, "train_on_ray", training)
            return clusters

        monkeypatch.setattr(ray_group, "ray_cluster", cluster)
        monkeypatch.setattr(ray_group, "_has_room", lambda _: True)
        monkeypatch.setenv("RAY_ADDRESS", "local")
        return set_training

    ARMS = (
        "sweep.arms={mse: {}, huber: {scaling: {num_workers: 2}}, other: {}}",
        "tracking.enabled=false",
    )

    def test_trains_runs_side_by_side_and_goes_on_where_one_diverges(self, train, small_config):
        together = threading.Barrier(3)

        def training(config, tracked, stop, claim):
            together.wait(60)
            if config.name == "huber-seed0":
                raise DivergedError(expected="a", found="b", where="c", fix="d")
            return DONE

        clusters = train(training)
        with pytest.raises(DivergedError, match=r"3 runs with .* 1 that diverged: huber-seed0;"):
            launch(small_config(*self.ARMS))
        assert clusters == [2]

    @pytest.mark.parametrize(("at_a_time", "most", "clusters"), [(1, 1, []), (2, 2, [2])])
    def test_trains_no_more_at_a_time_than_the_config_says(
        self, train, small_config, at_a_time, most, clusters
    ):
        under_way, seen = [], []
        together = threading.Barrier(most)

        def training(config, tracked, stop, claim):
            under_way.append(config.name)
            seen.append(len(under_way))
            if config.name != "other-seed0":
                together.wait(60)
            under_way.remove(config.name)
            return DONE

        started = train(training)
        outcomes = launch(small_config(*self.ARMS, f"sweep.at_a_time={at_a_time}"))
        assert [o.config.name for o in outcomes] == ["mse-seed0", "huber-seed0", "other-seed0"]
        assert max(seen) == most
        assert started == clusters


@pytest.mark.parametrize(
    ("outcome", "error", "status"),
    [
        (TrainingError(expected="a", found="b", where="c", fix="d"), TrainingError, "FAILED"),
        (signal.SIGINT, KeyboardInterrupt, "KILLED"),
        (signal.SIGTERM, SystemExit, "KILLED"),
    ],
    ids=str,
)
def test_what_ends_early_is_not_exported_and_says_so_to_mlflow(
    world, small_config, outcome, error, status
):
    world.outcome = outcome
    with pytest.raises(error) as ended:
        launch(small_config(TRACKED), local=True)
    assert world.log[-1] == ("finish", "run of run", status)
    assert "export" not in [entry[0] for entry in world.log]
    if outcome is signal.SIGTERM:
        assert ended.value.code == 143


def test_signal_handlers_are_those_of_before_afterwards(world, small_config):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    world.outcome = signal.SIGTERM
    with pytest.raises(SystemExit):
        launch(small_config(), local=True)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_alone_means_one_worker_whatever_the_config_says(world, small_config):
    config = small_config("scaling.num_workers=2", "scaling.min_workers=1")
    (outcome,) = launch(config, local=True)
    scaling = outcome.config.scaling
    assert (scaling.num_workers, scaling.min_workers) == (1, None)


class TestWorkersUnderTorchrun:
    @pytest.fixture
    def with_workers(self, monkeypatch, small_config):
        monkeypatch.setattr(preparation, "under_torchrun", lambda: True)
        monkeypatch.setenv("WORLD_SIZE", "4")
        return lambda *changes: prepared(small_config(*changes), local=False)

    def test_are_as_many_as_it_started(self, with_workers):
        assert with_workers().scaling.num_workers == 4

    def test_are_as_many_as_the_config_says_where_it_does(self, with_workers):
        assert with_workers("scaling.num_workers=2").scaling.num_workers == 2

    def test_must_share_the_batch(self, with_workers):
        with pytest.raises(ConfigError, match="run on 4 workers"):
            with_workers("training.batch_size=6")


class TestPaths:
    def test_are_absolute_for_the_workers(self, world, small_config, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        relative = os.path.relpath(small_config().data.store, tmp_path)
        config = small_config("storage=runs", f"data.store={relative}")
        (outcome,) = launch(config, local=True)
        assert outcome.config.storage == str(tmp_path / "runs")
        assert outcome.config.data.store.is_absolute()

    def test_lead_through_no_folder_that_may_be_removed(self, world, small_config, tmp_path):
        (tmp_path / "away").mkdir()
        (outcome,) = launch(small_config(f"storage={tmp_path}/away/../runs"), local=True)
        assert outcome.config.storage == str((tmp_path / "runs").resolve())

    @pytest.mark.parametrize(
        ("change", "key"), [("storage=runs", "storage"), ("data.store=s.zarr", "data.store")]
    )
    def test_must_be_absolute_in_a_submitted_job(self, small_config, monkeypatch, change, key):
        # Ray runs it in a copy of the folder, which is thrown away.
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        with pytest.raises(ConfigError, match=f"absolute path for {key}.*add {key}=/a/folder"):
            launch(small_config(change), local=True)

    def test_that_are_urls_stay(self, small_config, monkeypatch):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        config = prepared(small_config("storage=memory://runs"), local=True)
        assert config.storage == "memory://runs"


def test_what_cannot_be_trained_on_fails_before_anything_is_made(world, small_config, tmp_path):
    with pytest.raises(StoreError, match="nothing"):
        launch(small_config(f"data.store={tmp_path}/nothing"), local=True)
    assert world.log == []
    assert not Path(small_config().run_folder).exists()


def test_a_gpu_that_is_not_there_is_told_before_any_worker_starts(world, small_config, monkeypatch):
    monkeypatch.setattr(preparation.torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"a CUDA device.*add scaling.use_gpu=false"):
        launch(small_config("scaling.use_gpu=true"), local=True)
    assert world.log == []


class TestARunThatGoesOn:
    """Whether it may is known before anything is written."""

    @pytest.mark.parametrize("refusal", ["settings", "examples", "claim"])
    def test_and_may_not_leaves_all_as_it_was(self, world, small_config, small_store, refusal):
        config = small_config(TRACKED)
        launch(config, local=True)
        save(config)
        world.log.clear()
        before = content(config.run_folder)
        with ExitStack() as stack:
            if refusal == "settings":
                refused, error = small_config(TRACKED, "training.seed=1"), ConfigError
            elif refusal == "examples":
                other = config.run_folder.parent / "other.zarr"
                refused, error = small_config(TRACKED, f"data.store={other}"), ConfigError
                ingest(example_micrographs()[:3], other, crop_size=64)
            else:
                stack.enter_context(claimed(config.run_folder))
                refused, error = config, BusyError
            with pytest.raises(error, match="; "):
                launch(refused, local=True)
        assert world.log == []
        assert content(config.run_folder) == before

    def test_in_a_sweep_and_may_not_stops_all_of_it(self, world, small_config):
        sweep = "sweep.arms={mse: {}, huber: {}}"
        config = small_config(TRACKED, sweep)
        for outcome in launch(config, local=True):
            save(outcome.config)
        world.log.clear()
        before = content(config.run_folder)
        arms = "sweep.arms={mse: {}, huber: {loss: {huber: true}}}"
        with pytest.raises(ConfigError, match=r"loss.huber = False, as this run began with"):
            launch(small_config(TRACKED, arms), local=True)
        assert world.log == []
        assert content(config.run_folder) == before

    def test_says_which_settings_have_changed(self, world, small_config, caplog):
        config = small_config("tracking.enabled=false")
        save(config)
        launch(small_config("tracking.enabled=false", "optimizer.learning_rate=0.01"), local=True)
        assert caplog.messages == [
            "run goes on from step 2 with other settings than before: "
            "optimizer.learning_rate: 0.0003 -> 0.01"
        ]

    def test_says_nothing_of_keys_that_are_called_otherwise_now(self, world, small_config, caplog):
        config = small_config("augmentation.max_zoom=2", "tracking.enabled=false")
        old = config.model_dump(mode="json")
        old["scan"]["max_zoom"] = old["augmentation"].pop("max_zoom")
        save(config, **old)
        launch(config, local=True)
        assert caplog.messages == []

    def test_says_that_a_store_has_grown(self, world, small_config, monkeypatch, capsys):
        config = small_config()
        save(config)
        monkeypatch.setattr(runs, "open_examples", lambda config: Grown(config.data.store))
        launch(config, local=True)
        num = len(MicrographStore(config.data.store))
        assert f"goes on with the {num:,} that it began with (to use all" in capsys.readouterr().err

    def test_and_was_trained_for_longer_has_nothing_to_do(self, world, small_config, capsys):
        config = small_config(TRACKED)
        save(config, step=7)
        for _ in range(2):
            (outcome,) = launch(config, local=True)
            assert outcome.result == TrainingResult(7, {"train/outer_loss": 0.25}, finished=True)
            said = capsys.readouterr().err
            assert "run was trained for 7 steps, more than training.steps=6: nothing to do" in said
            (config.run_folder / "model").mkdir(exist_ok=True)
            (config.run_folder / "model" / "model.json").touch()
        assert world.log == [("export", "run", "model", "last")]


class Grown:
    """A store to which a crop was appended."""

    def __init__(self, path):
        self.before = MicrographStore(path)

    def __len__(self):
        return len(self.before) + 1

    def first(self, count):
        return self.before.first(count)

    def indices(self, split):
        return self.before.indices(split)


def test_a_run_is_held_while_it_is_trained_and_exported(world, small_config):
    seen = []

    def look(config):
        seen.append((config.run_folder / CLAIM_FILE).exists())
        return DONE

    world.outcome = look
    (outcome,) = launch(small_config(), local=True)
    assert seen == [True]
    assert not (outcome.config.run_folder / CLAIM_FILE).exists()


def test_a_run_that_another_process_took_over_is_left_to_it(world, small_config):
    def lose(config):
        (config.run_folder / CLAIM_FILE).write_text("another's")
        return DONE

    world.outcome = lose
    with pytest.raises(ClaimLostError, match="this process to hold the run"):
        launch(small_config(TRACKED), local=True)
    assert [entry[0] for entry in world.log] == ["open", "train"]
    assert (small_config().run_folder / CLAIM_FILE).read_text() == "another's"

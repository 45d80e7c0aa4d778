from __future__ import annotations

import math
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from stem_complete.data.sampler import evenly_spread
from stem_complete.data.scans import RasterScan
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import WorkerContext
from stem_complete.errors import ArtifactError, StoreError
from stem_complete.inference import (
    Completer,
    build_artifact,
    load_artifact,
    load_completer,
    model_folder,
    register_model,
)
from stem_complete.inference.export import calibrate, export_checkpoint
from stem_complete.models import initialise
from stem_complete.scan import encode
from stem_complete.training import Checkpoints, build_task, train
from stem_complete.training.simulation import build_simulator


def save(config, task, step, rmse=0.25):
    with closing(Checkpoints(config.run_folder)) as checkpoints:
        checkpoints.save(
            step,
            {"task": task.state_dict(), "optimizer": {}},
            config=config.model_dump(mode="json"),
            metrics={"validation/rmse": rmse},
            score=rmse,
        )
        checkpoints.wait()


@pytest.fixture
def run(small_config):
    """A run's config with a checkpoint of an initialised network, and its task."""
    config = small_config("model.bias=true")
    task = build_task(config, (64, 64))
    images = torch.from_numpy(MicrographStore(config.data.store).read([0, 1]))
    batch = task.simulator(images, 0, torch.arange(2))
    initialise(task.network, encode(batch.scan).x)
    save(config, task, 7)
    return config, task


def test_the_model_completes_as_the_checkpoint_did(run):
    config, task = run
    model = export_checkpoint(config.run_folder, config.run_folder / "model", device="cpu")
    store = MicrographStore(config.data.store)
    simulator = build_simulator(config, (64, 64), augment=False, seed=3)
    batch = simulator(torch.from_numpy(store.read(store.indices("test")[:1])), 0, torch.tensor([0]))
    with torch.no_grad():
        expected = task.eval().complete(batch)[0][0, 0].numpy()

    completer = load_completer(config.run_folder, "cpu")
    assert model == config.run_folder / "model"
    intensity, dwell = (part[0, 0].numpy() for part in batch.scan)
    image, error = completer.complete(intensity, dwell)
    np.testing.assert_allclose(image, expected, atol=1e-3)
    assert np.isfinite(error).all()


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_models_with_other_norms_complete_scans_of_any_size(small_config, norm):
    """As the trained network does that has the checkpoint's weights and running statistics."""
    settings = f"model.norm={norm}", "training.steps=3", "training.precision=bf16"
    config = small_config(*settings, name=norm)
    train(config, WorkerContext())
    checkpoint = Checkpoints(config.run_folder).latest()
    task = build_task(config, (64, 64))
    task.load_state_dict(checkpoint.state["task"])
    export_checkpoint(config.run_folder, config.run_folder / "model", device="cpu")
    completer = load_completer(config.run_folder, "cpu")
    network = load_artifact(config.run_folder / "model").network
    store = MicrographStore(config.data.store)
    image = torch.from_numpy(store.read(store.indices("test")[:1]))
    for shape in ((64, 64), (128, 192)):
        simulator = build_simulator(config, shape, augment=False, seed=3)
        batch = simulator(image.repeat(1, 1, shape[0] // 64, shape[1] // 64), 0, torch.tensor([0]))
        with torch.no_grad():
            expected = task.eval().network(task.encode(batch.scan).x).full
            found = network(task.encode(batch.scan).x)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        intensity, dwell = (part[0, 0].numpy() for part in batch.scan)
        completed = completer.complete(intensity, dwell).image
        assert completed.shape == shape
        assert np.isfinite(completed).all()


def test_the_model_is_the_same_to_the_bit_with_any_number_of_threads(run, tmp_path):
    config, _ = run
    before = torch.get_num_threads()
    models = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            model = export_checkpoint(config.run_folder, tmp_path / f"model{threads}", device="cpu")
            assert torch.get_num_threads() == threads
            models.append({file.name: file.read_bytes() for file in sorted(model.iterdir())})
    finally:
        torch.set_num_threads(before)
    assert models[0].keys() == {"model.json", "model.safetensors"}
    assert models[0] == models[1]


def test_a_working_directory_that_was_removed_does_not_matter(run, tmp_path, monkeypatch):
    config, _ = run
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    model = export_checkpoint(config.run_folder, config.run_folder / "model", device="cpu")
    assert load_completer(model, "cpu").card.name == config.name


def test_the_card_tells_where_the_model_comes_from(run):
    config, _ = run
    export_checkpoint(config.run_folder, config.run_folder / "model", device="cpu")
    card = load_completer(config.run_folder, "cpu").card
    store = MicrographStore(config.data.store)
    trained = [source for source in store.sources() if source.split == "train"]
    assert [(s.name, s.sha256) for s in card.training_data] == [
        (Path(source.path).name, source.sha256) for source in trained
    ]
    assert sum(source.num_crops for source in card.training_data) == store.counts["train"]
    assert card.metrics == {"validation/rmse": 0.25, "train/steps": 7}
    assert card.coverage == config.scan.coverage
    assert card.calibration is not None


def test_the_error_map_predicts_the_validation_error(run):
    """Of the same scans: on others, it is the network that must generalise."""
    config, _ = run
    checkpoint = next((config.run_folder / "checkpoints").iterdir())
    calls = []
    model = export_checkpoint(
        checkpoint,
        config.run_folder.parent / "model",
        num_calibration_scans=5,
        device="cpu",
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(n, 5) for n in range(1, 6)]
    completer = load_completer(model, "cpu")
    store = MicrographStore(config.data.store)
    crops = evenly_spread(store.indices("validation"), 5)
    simulator = build_simulator(config, (64, 64), augment=True, seed=1)
    batch = simulator(torch.from_numpy(store.read(crops)), 0, torch.arange(5))
    intensity, dwell, truth = (t[:, 0].numpy() for t in (*batch.scan, batch.truth))
    scans = map(RasterScan, intensity, dwell)
    image, error = map(np.stack, zip(*completer.complete_scans(list(scans)), strict=True))
    assert np.mean(error**2) == pytest.approx(np.mean((image - truth) ** 2), rel=0.5)


def test_every_kind_of_noise_has_its_share_of_the_calibration(run):
    config, task = run
    kinds = [{"kind": "none"}, {"kind": "detector"}, {"kind": "none"}]
    noises = config.augmentation.model_validate({"noises": kinds})
    varied = config.model_copy(update={"augmentation": noises})
    calls = []
    artifact = build_artifact(task.network, config=varied)
    store = MicrographStore(config.data.store)
    calibration = calibrate(
        Completer(artifact, "cpu"),
        varied,
        store,
        num_scans=2,
        progress=lambda *call: calls.append(call),
    )
    assert calls[-1] == (6, 6)
    assert calibration.num_images == 6


def test_specimens_that_no_micrograph_shows_are_for_training_alone(artifact, run):
    config, _ = run
    store = MicrographStore(config.data.store)

    def of(**made):
        changes = {"crop_px": 32, **made}
        varied = config.augmentation.model_validate(changes)
        changed = config.model_copy(update={"augmentation": varied})
        return calibrate(Completer(artifact, "cpu"), changed, store, num_scans=2)

    assert of(overlay=True, smooth_fraction=1.0) == of()


def test_the_best_or_the_last_is_exported(run, tmp_path):
    config, task = run
    save(config, task, 8, rmse=0.5)
    quick = {"device": "cpu", "num_calibration_scans": 1}
    for which, step in (("best", 7), ("last", 8)):
        model = export_checkpoint(config.run_folder, tmp_path / which, which=which, **quick)
        assert load_completer(model, "cpu").card.metrics["train/steps"] == step


def test_a_checkpoint_completes_as_its_model_but_without_error_map(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, _ = run
    model = export_checkpoint(config.run_folder, tmp_path / "m", num_calibration_scans=1)
    (checkpoint,) = (config.run_folder / "checkpoints").iterdir()
    exported, loaded = load_completer(model, "cpu"), load_completer(checkpoint, "cpu")
    scan = np.random.default_rng(0).normal(size=(64, 64))
    scan[::2] = np.nan
    image, error = loaded.complete(scan)
    assert np.array_equal(image, exported.complete(scan).image)
    assert np.isnan(error).all()
    # Batches know models by their weights, and workers on Ray get copies of their folders.
    assert loaded.card.weights_sha256 == exported.card.weights_sha256
    assert model_folder(checkpoint) == model_folder(checkpoint) != checkpoint
    with pytest.raises(ArtifactError, match=r"found a checkpoint; make a model of it with"):
        register_model(checkpoint, "gold")


def test_a_run_without_model_names_its_checkpoints(run):
    config, _ = run
    with pytest.raises(ArtifactError, match=r"checkpoints only; .* name one of its checkpoints"):
        load_completer(config.run_folder, "cpu")


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_paths_may_be_urls(run, tmp_path, scheme):
    config, _ = run
    quick = {"device": "cpu", "num_calibration_scans": 1}
    output = {"file": tmp_path.as_uri(), "memory": f"memory://{tmp_path.name}"}[scheme]
    source = Path(config.run_folder).as_uri()
    model = export_checkpoint(source, f"{output}/model", **quick)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for file in model.iterdir():
        (fetched / file.name).write_bytes(file.read_bytes())
    local = export_checkpoint(config.run_folder, tmp_path / "local", **quick)
    assert load_completer(fetched, "cpu").card == load_completer(local, "cpu").card


def test_without_validation_split_there_is_no_error_map(run, texture, tmp_path):
    config, _ = run
    np.save(tmp_path / "only.npy", texture(0, (64, 64)).astype(np.float32))
    ingest([tmp_path / "only.npy"], tmp_path / "store", crop_size=64, dtype="float32")
    model = export_checkpoint(
        config.run_folder, tmp_path / "model", store=tmp_path / "store", device="cpu"
    )
    assert load_completer(model, "cpu").card.calibration is None


def test_constant_scans_do_not_count(artifact, run, monkeypatch):
    config, _ = run
    store = MicrographStore(config.data.store)
    monkeypatch.setattr(store, "read", lambda crops: np.ones((len(crops), 1, 64, 64), np.float32))
    quiet = config.model_copy(
        update={"scan": config.scan.model_validate({"noise": {"kind": "none"}})}
    )
    assert calibrate(Completer(artifact, "cpu"), quiet, store, num_scans=2) is None


class TestRefusals:
    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(ArtifactError, match="no such folder"):
            export_checkpoint(tmp_path / "none", tmp_path / "model")
        with pytest.raises(ArtifactError, match=r"a checkpoint.*found none"):
            export_checkpoint(tmp_path, tmp_path / "model")

    def test_none_was_validated(self, run, tmp_path):
        config, task = run
        shutil.rmtree(config.run_folder / "checkpoints")
        save(config, task, 7, rmse=math.nan)
        with pytest.raises(ArtifactError, match=r"checkpoint that was validated.*export the last"):
            export_checkpoint(config.run_folder, tmp_path / "model", which="best")

    def test_no_store(self, run, tmp_path):
        config, _ = run
        with pytest.raises(StoreError):
            export_checkpoint(config.run_folder, tmp_path / "model", store=tmp_path / "moved")
        assert not (tmp_path / "model").exists()

    def test_weights_of_another_network(self, run, tmp_path):
        config, task = run
        shutil.rmtree(config.run_folder / "checkpoints")
        other = config.model_copy(update={"model": config.model.model_copy(update={"bias": False})})
        save(other, task, 7)
        with pytest.raises(ArtifactError, match="Unexpected key") as caught:
            export_checkpoint(config.run_folder, tmp_path / "model")
        assert "\n" not in str(caught.value)

"""Trained checkpoint -> model folder, with an error map calibrated on validation scans."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from upath import UPath

from stem_complete.config import Config, validate_config
from stem_complete.data.examples import check_recorded
from stem_complete.data.sampler import evenly_spread
from stem_complete.data.scans import RasterScan
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import one_thread
from stem_complete.errors import ArtifactError
from stem_complete.files import leave_removed_folder
from stem_complete.inference.artifact import Artifact, build_artifact, save_artifact
from stem_complete.inference.card import CARD_FILE, TrainingSource
from stem_complete.inference.complete import Progress
from stem_complete.inference.completer import Completer
from stem_complete.inference.error_features import ErrorFeatures, error_features
from stem_complete.inference.error_fit import calibrated
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.storage.paths import clear_errors, is_local, remove, storage_path
from stem_complete.training import Checkpoint, Checkpoints, build_task, load_checkpoint
from stem_complete.training.checkpoint_folder import METADATA_FILE
from stem_complete.training.simulation import build_simulator
from stem_complete.training.state import averaged_weights
from stem_complete.vocabulary import INTENSITY_RANGE, WEIGHTS_FILE

CALIBRATION_SEED = 1
"""Seed of the calibration scans' noise; validation during training has seed 0."""


@one_thread()
def export_checkpoint(
    source: str | Path | UPath,
    output: str | Path | UPath,
    *,
    which: Literal["last", "best"] = "last",
    store: str | Path | None = None,
    num_calibration_scans: int | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> UPath:
    """Writes the model of a trained checkpoint to the folder `output`, and returns it.

    Its error map is calibrated on the store's validation split; without one there is no map. On the
    CPU the model is the same to the bit wherever it is made, and however many threads there are.

    Args:
        source: Path or URL of a checkpoint folder, or of a run folder.
        output: Path or URL of the model folder; a model there is replaced.
        which: Checkpoint of a run: the newest, or the one with the lowest validation RMSE.
        store: The run's micrographs, where they have moved since.
        num_calibration_scans: So many are completed for the error map for each kind of noise; None:
            as the run's config says.
        device: As for `Completer`.
        progress: Called after each of them.

    Raises:
        ArtifactError: There is no usable checkpoint, or `output` holds something else.
        StoreError: The store cannot be read.
        ConfigError: It is not the store that was trained on.
        StorageError: A URL cannot be read or written.
    """
    leave_removed_folder()
    target = storage_path(output)
    checkpoint = _checkpoint(storage_path(source), which)
    config = validate_config(checkpoint.config, where=str(checkpoint.folder))
    micrographs = _trained_on(checkpoint, MicrographStore(store or config.data.store))
    artifact = checkpoint_artifact(checkpoint, training_data=training_sources(micrographs))
    calibration = calibrate(
        Completer(artifact, device),
        config,
        micrographs,
        num_scans=num_calibration_scans or config.training.calibration_scans,
        progress=progress,
    )
    card = artifact.card.model_copy(update={"calibration": calibration})
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(str(target)) if is_local(target) else Path(temporary) / "model"
        save_artifact(local, artifact._replace(card=card))
        if not is_local(target):
            _upload(local, target)
    return target


def checkpoint_artifact(
    checkpoint: Checkpoint, *, training_data: Iterable[TrainingSource] = ()
) -> Artifact:
    """The model of a checkpoint, in memory and without an error map.

    Args:
        checkpoint: The checkpoint.
        training_data: Files that it was trained on.

    Raises:
        ArtifactError: It has other weights than its config says.
    """
    config = validate_config(checkpoint.config, where=str(checkpoint.folder))
    crop_px = config.augmentation.crop_px if config.augmentation else None
    # The weights do not depend on the size of the crops.
    task = build_task(config, (crop_px or 512,) * 2)
    try:
        task.load_state_dict(checkpoint.state["task"])
        average = checkpoint.state.get("average", {})
        decay = config.training.weight_average
        task.load_state_dict(averaged_weights(average, checkpoint.step, decay), strict=False)
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(
            expected="the weights of the network in its config",
            found=str(error),
            where=str(checkpoint.folder),
            fix="export another checkpoint, or restore the config that this one was trained with",
        ) from None
    return build_artifact(
        task.network,
        config=config,
        metrics=checkpoint.metrics | {"train/steps": checkpoint.step},
        training_data=training_data,
    )


def calibrate(
    completer: Completer,
    config: Config,
    store: MicrographStore,
    *,
    num_scans: int = 64,
    progress: Progress | None = None,
) -> ErrorCalibration | None:
    """Calibration of a completer's error map on validation scans; None if there are none.

    The scans vary as those that `config` describes for training, so that every geometry, coverage
    and noise has its share. Crops are spread evenly over the split; with fewer crops than scans,
    crops are scanned again. They are scanned whole and as they are: parts of them at other scales,
    sums of two and smooth ones are made for training alone. Errors are differences of the network's
    completions from the blurred micrographs.

    Args:
        completer: The model.
        config: Config of its training.
        store: Micrographs.
        num_scans: Number of scans for each kind of noise.
        progress: Called after each scan.
    """
    config = _of_micrographs(config)
    crops = evenly_spread(store.indices("validation"), num_scans)
    shape = (store.crop_size, store.crop_size)
    simulator = build_simulator(config, shape, augment=True, seed=CALIBRATION_SEED)
    noises = (config.scan.noise, *(config.augmentation.noises if config.augmentation else ()))
    # Some are given again, to be trained on more often.
    kinds = {noise.model_dump_json() for noise in noises}
    total = len(kinds) * num_scans if len(crops) else 0

    def completions() -> Iterator[tuple[ErrorFeatures, NDArray[np.float64]]]:
        for number in range(total):
            image = torch.from_numpy(store.read([crops[number % len(crops)]]))
            batch = simulator(image, 0, torch.tensor([number]))
            intensity, dwell, truth = (t[0, 0].numpy() for t in (*batch.scan, batch.truth))
            scan = RasterScan(intensity, dwell, intensity_range=INTENSITY_RANGE)
            completed = completer.network_completion(scan)
            features = error_features(torch.from_numpy(completed)[None, None], batch.scan)
            if features.std > 0:  # a constant scan has no unit to measure its error in
                yield features, ((completed.astype(np.float64) - truth) / features.unit) ** 2
            if progress:
                progress(number + 1, total)

    return calibrated(completions())


def _of_micrographs(config: Config) -> Config:
    """The config with micrographs as they are."""
    if config.augmentation is None:
        return config
    as_they_are = {"crop_px": None, "max_zoom": 1.0, "contrast": False}
    as_they_are |= {"overlay": False, "smooth_fraction": 0.0, "sharp_fraction": 0.0}
    augmentation = config.augmentation.model_copy(update=as_they_are)
    return config.model_copy(update={"augmentation": augmentation})


def training_sources(store: MicrographStore) -> list[TrainingSource]:
    """Names and hashes of the files in the store's training split."""
    return [
        TrainingSource(
            name=Path(source.path).name,
            signal=source.signal,
            sha256=source.sha256,
            num_crops=source.num_crops,
            licence=source.licence,
        )
        for source in store.sources()
        if source.split == "train" and source.num_crops
    ]


def _trained_on(checkpoint: Checkpoint, store: MicrographStore) -> MicrographStore:
    """The store as it was when the run began."""
    if checkpoint.examples is None:
        return store
    check_recorded(store, checkpoint.examples, checkpoint.folder)
    return store.first(checkpoint.examples.num)


def _checkpoint(source: UPath, which: Literal["last", "best"]) -> Checkpoint:
    with clear_errors(source):
        is_checkpoint, exists = (source / METADATA_FILE).exists(), source.exists()
    if is_checkpoint:
        return load_checkpoint(source)
    checkpoints = Checkpoints(source)
    checkpoint = checkpoints.latest() if which == "last" else checkpoints.best()
    if checkpoint is None:
        scored = which == "best" and checkpoints.folders()
        raise ArtifactError(
            expected="a checkpoint that was validated"
            if scored
            else "a checkpoint, or a run folder with checkpoints",
            found="none" if exists else "no such folder",
            where=str(source),
            fix="export the last one" if scored else "give the folder of a training run",
        )
    return checkpoint


def _upload(model: Path, target: UPath) -> None:
    """Copies a model to storage without renaming: the card is removed first and written last."""
    with clear_errors(target):
        remove(target / CARD_FILE)
        for name in (WEIGHTS_FILE, CARD_FILE):
            target.fs.put_file(str(model / name), (target / name).path)

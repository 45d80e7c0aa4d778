"""Model folders: all that completing scans takes, and where it came from. Nothing is unpickled.

<model folder>/
    model.safetensors   generator with weight norm and running means folded into convolutions
    model.json          `ModelCard`: architecture, encoding, error calibration, config, hashes
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import stem_complete
from stem_complete.config import Config
from stem_complete.errors import ArtifactError
from stem_complete.inference.card import (
    CARD_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    ArchitectureCard,
    ModelCard,
    TrainingSource,
    damaged,
    read_card,
)
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.models import TwoStageGenerator, TwoStageNetwork, fold_norms
from stem_complete.scan import NUM_CHANNELS


class Artifact(NamedTuple):
    """A model: the folded generator, on the CPU and in eval mode, and its card."""

    network: TwoStageGenerator
    card: ModelCard


def build_artifact(
    network: TwoStageNetwork,
    *,
    config: Config,
    metrics: Mapping[str, float] | None = None,
    calibration: ErrorCalibration | None = None,
    training_data: Iterable[TrainingSource] = (),
) -> Artifact:
    """The model of a trained network, in memory.

    Args:
        network: As trained; it stays as it is.
        config: Of its training; it names the network's architecture.
        metrics: Of its training and validation.
        calibration: Of its error map; without one, completions come with no error.
        training_data: Files that it was trained on.
    """
    measured = {name: float(value) for name, value in (metrics or {}).items()}
    card = ModelCard(
        format_version=FORMAT_VERSION,
        name=config.name,
        recipe=config.recipe,
        architecture=ArchitectureCard.of(config),
        encoding=config.model.encoding,
        coverage=config.scan.coverage,
        more_coverages=config.augmentation.coverages if config.augmentation else (),
        calibration=calibration,
        metrics={name: v if np.isfinite(v) else None for name, v in measured.items()},
        training_data=tuple(training_data),
        config=config.model_dump(mode="json"),
        versions={
            "stem_complete": stem_complete.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    )
    return Artifact(fold_norms(network).generator.cpu(), card)


def save_artifact(
    folder: str | Path,
    network: TwoStageNetwork,
    *,
    config: Config,
    metrics: Mapping[str, float] | None = None,
    calibration: ErrorCalibration | None = None,
    training_data: Iterable[TrainingSource] = (),
) -> Path:
    """Writes the model of a trained network to `folder`, and returns it.

    A model that lies there is replaced once the new one is complete and has been read back.

    Args:
        folder: A model folder, or none yet.
        network: As for `build_artifact`, and the others too.
        config: See there.
        metrics: See there.
        calibration: See there.
        training_data: See there.

    Raises:
        ArtifactError: The weights are not finite, or `folder` holds something else or cannot be
            written.
    """
    artifact = build_artifact(
        network,
        config=config,
        metrics=metrics,
        calibration=calibration,
        training_data=training_data,
    )
    folder = Path(folder).absolute()
    _check_target(folder)
    weights = {name: value.contiguous() for name, value in artifact.network.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ArtifactError(
            expected="finite weights", found="NaN or Inf", where=folder, fix="train again"
        )

    unfinished = folder.with_name(f".unfinished-{folder.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        # `save_file` would make a file that nobody else in the group may read.
        (unfinished / WEIGHTS_FILE).write_bytes(save(weights))
        card = artifact.card.model_copy(
            update={"weights_sha256": _sha256(unfinished / WEIGHTS_FILE)}
        )
        (unfinished / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
        _sync(unfinished)
        load_artifact(unfinished)
        _replace(folder, unfinished)
    except OSError as error:
        raise ArtifactError(
            expected="to write the model",
            found=str(error),
            where=folder,
            fix="make room or choose another output folder",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def load_artifact(folder: str | Path) -> Artifact:
    """The model in `folder`, on the CPU.

    Raises:
        ArtifactError: It is missing, corrupt, incomplete or of a newer version.
    """
    folder = Path(folder)
    card = read_card(folder)
    weights_file = folder / WEIGHTS_FILE
    try:
        if _sha256(weights_file) != card.weights_sha256:
            raise damaged(weights_file, "other content than model.json states")
        weights = load_file(weights_file)
        network = card.architecture.build(NUM_CHANNELS[card.encoding])
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise damaged(weights_file, "no such file") from None
    # A RuntimeError lists the weights that do not fit.
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(weights_file, str(error)) from None
    return Artifact(network.eval().requires_grad_(requires_grad=False), card)


def _check_target(folder: Path) -> None:
    """Only a model may be replaced: `folder` could be anyone's home."""
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / CARD_FILE).is_file()
    ):
        raise ArtifactError(
            expected="a model folder, an empty one or a new one",
            found="a file" if folder.is_file() else "a folder with other things in it",
            where=folder,
            fix="choose another output folder",
        )


def _replace(folder: Path, complete: Path) -> None:
    """Puts `complete` where `folder` is, or leaves `folder` as it was."""
    if not folder.exists():
        complete.rename(folder)
        return
    old = folder.with_name(f".replaced-{folder.name}-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    try:
        complete.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    """Files may not be renamed before they are on the disk: a power cut would empty them."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

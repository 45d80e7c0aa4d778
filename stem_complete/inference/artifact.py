"""Model folders: everything that completing scans needs, and its origin. Nothing is unpickled.

<model folder>/
    model.safetensors   generator with weight norm and running means folded into convolutions
    model.json          `ModelCard`: architecture, encoding, error calibration, config, hashes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import stem_complete
from stem_complete.errors import ArtifactError
from stem_complete.files import atomic_folder, sha256
from stem_complete.inference.card import (
    CARD_FILE,
    FORMAT_VERSION,
    ArchitectureCard,
    ModelCard,
    TrainingSource,
    damaged,
    read_card,
)
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.models import TwoStageGenerator, TwoStageNetwork, fold_norms
from stem_complete.scan import NUM_CHANNELS
from stem_complete.vocabulary import WEIGHTS_FILE

if TYPE_CHECKING:  # the schema of training runs, which completing a scan does without
    from stem_complete.config import Config


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
        network: The trained network; it is not changed.
        config: Config of its training, which names the network's architecture.
        metrics: Metrics of its training and validation.
        calibration: Calibration of its error map; without one, completions come with no error.
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


def save_artifact(folder: str | Path, artifact: Artifact) -> Path:
    """Writes a model to `folder`, and returns it.

    A model in that folder is replaced once the new one is complete and has been read back.

    Args:
        folder: Folder of a model, an empty one or a new one.
        artifact: The model; the hash of its weights is put into the card that is written.

    Raises:
        ArtifactError: The weights are not finite, or `folder` holds something else or cannot be
            written.
    """
    folder = Path(folder).absolute()
    _check_target(folder)
    weights = {name: value.contiguous() for name, value in artifact.network.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ArtifactError(
            expected="finite weights", found="NaN or Inf", where=folder, fix="train again"
        )

    try:
        with atomic_folder(folder) as draft:
            # `save_file` would make a file that nobody else in the group may read.
            (draft / WEIGHTS_FILE).write_bytes(save(weights))
            card = artifact.card.model_copy(update={"weights_sha256": sha256(draft / WEIGHTS_FILE)})
            (draft / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
            load_artifact(draft)
    except OSError as error:
        raise ArtifactError(
            expected="to write the model",
            found=str(error),
            where=folder,
            fix="make room or choose another output folder",
        ) from error
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
        if sha256(weights_file) != card.weights_sha256:
            raise damaged(weights_file, "other content than model.json states")
        weights = load_file(weights_file)
        network = card.architecture.build(NUM_CHANNELS[card.encoding])
        network.load_state_dict(weights, assign=True)
    except FileNotFoundError:
        raise damaged(weights_file, "no such file") from None
    # A RuntimeError lists the weights that do not fit.
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(weights_file, str(error)) from None
    return Artifact(network.eval().requires_grad_(requires_grad=False), card)


def _check_target(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but a model."""
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / CARD_FILE).is_file()
    ):
        raise ArtifactError(
            expected="a model folder, an empty one or a new one",
            found="a file" if folder.is_file() else "a folder with other things in it",
            where=folder,
            fix="choose another output folder",
        )

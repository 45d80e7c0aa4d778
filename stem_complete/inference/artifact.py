"""Model folders: all that completing scans takes, and where it came from. Nothing is unpickled.

<model folder>/
    model.safetensors   generator with weight norm and running means folded into convolutions
    model.json          `ModelCard`: architecture, encoding, error calibration, config, hashes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import stem_complete
from stem_complete.config import Config
from stem_complete.errors import ArtifactError
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.models import (
    PRESETS,
    MeanNormAtInference,
    TwoStageGenerator,
    TwoStageNetwork,
    build_network,
    fold,
)
from stem_complete.models import Architecture as Sizes

FORMAT_VERSION = 1
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArchitectureCard(_Entry):
    """What the folded network is rebuilt from; `sizes` rather than a preset, which may change."""

    sizes: dict[str, Any]
    reference_layers: bool
    bias: bool
    leaky_slope: float
    mean_norm_at_inference: MeanNormAtInference

    @classmethod
    def of(cls, config: Config) -> Self:
        """The architecture that a config names."""
        model = config.model
        return cls(
            sizes=PRESETS[model.preset].to_dict(),
            reference_layers=model.reference_layers,
            bias=model.bias,
            leaky_slope=model.leaky_slope,
            mean_norm_at_inference=model.mean_norm_at_inference,
        )

    def build(self) -> TwoStageGenerator:
        """The folded generator with uninitialised weights."""
        network = build_network(
            Sizes.from_dict(self.sizes),
            folded=True,
            reference_layers=self.reference_layers,
            bias=self.bias,
            leaky_slope=self.leaky_slope,
            mean_norm_at_inference=self.mean_norm_at_inference,
        )
        return network.generator


class TrainingSource(_Entry):
    """A file, or a signal of one, that the model was trained on, by its name and content."""

    name: str
    signal: str
    sha256: str
    num_crops: NonNegativeInt
    licence: str | None


class ModelCard(_Entry):
    """What `model.json` holds.

    Attributes:
        format_version: Of the folder.
        name: Of the training run.
        recipe: Of the training run.
        architecture: Of the network.
        encoding: Of partial scans into the network's input.
        coverage: Mean dwell of the scans it was trained on; it expects scans like these.
        calibration: Of its error map.
        metrics: Of its training and validation; null stands for what is not finite.
        training_data: Files that it was trained on.
        config: Resolved config of its training.
        versions: Of the software that wrote the folder.
        weights_sha256: SHA-256 of `model.safetensors`.
    """

    format_version: int
    name: str
    recipe: str
    architecture: ArchitectureCard
    encoding: Literal["standard", "filled", "reference"]
    coverage: float
    calibration: ErrorCalibration | None
    metrics: dict[str, float | None]
    training_data: tuple[TrainingSource, ...]
    config: dict[str, Any]
    versions: dict[str, str]
    weights_sha256: str = ""


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
    return Artifact(fold(network).generator.cpu(), card)


def save_artifact(
    folder: Path,
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
        ArtifactError: The weights are not finite, or `folder` holds something else.
    """
    artifact = build_artifact(
        network,
        config=config,
        metrics=metrics,
        calibration=calibration,
        training_data=training_data,
    )
    folder = Path(folder)
    _check_target(folder)
    weights = {name: value.contiguous() for name, value in artifact.network.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ArtifactError(
            expected="finite weights", found="NaN or Inf", where=folder, fix="train again"
        )

    unfinished = folder.with_name(f".unfinished-{folder.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        save_file(weights, unfinished / WEIGHTS_FILE)
        card = artifact.card.model_copy(
            update={"weights_sha256": _sha256(unfinished / WEIGHTS_FILE)}
        )
        (unfinished / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
        load_artifact(unfinished)
        _replace(folder, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def load_artifact(folder: Path) -> Artifact:
    """The model in `folder`, on the CPU.

    Raises:
        ArtifactError: It is missing, corrupt, incomplete or of a newer version.
    """
    folder = Path(folder)
    card = _read_card(folder)
    weights_file = folder / WEIGHTS_FILE
    try:
        if _sha256(weights_file) != card.weights_sha256:
            raise _damaged(weights_file, "other content than model.json states")
        weights = load_file(weights_file)
        network = card.architecture.build()
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise _damaged(weights_file, "no such file") from None
    # A RuntimeError lists the weights that do not fit.
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise _damaged(weights_file, str(error)) from None
    return Artifact(network.eval().requires_grad_(requires_grad=False), card)


def _read_card(folder: Path) -> ModelCard:
    path = folder / CARD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            expected=f"a model folder (with {CARD_FILE} and {WEIGHTS_FILE})",
            found="a file" if folder.is_file() else f"no {CARD_FILE}",
            where=folder,
            fix="give the `model` folder of a finished training run",
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"one that cannot be read ({error})") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise _damaged(path, "no format_version")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            expected=f"model format {FORMAT_VERSION} or older",
            found=f"format {version}",
            where=folder,
            fix="update stem-complete",
        )
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{first['msg'].lower()} at {key}") from None


def _damaged(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        expected=f"a whole {path.name}",
        found=found,
        where=path.parent,
        fix="export or copy the model again",
    )


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""`model.json` of a model folder: its content, and the checks when it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator

from stem_complete.credentials import put_aside
from stem_complete.errors import ArtifactError
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.inference.error_network import ErrorNetwork
from stem_complete.inference.error_table import ErrorTable
from stem_complete.models import (
    PRESETS,
    Architecture,
    TwoStageGenerator,
    build_network,
)
from stem_complete.vocabulary import WEIGHTS_FILE, Encoding, MeanNormAtInference

if TYPE_CHECKING:  # the schema of training runs, which completing a scan does without
    from stem_complete.config import Config

FORMAT_VERSION = 1
CARD_FILE = "model.json"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArchitectureCard(_Entry):
    """Arguments that rebuild the folded network; all sizes, as presets may change."""

    sizes: Architecture
    reference_layers: bool
    bias: bool
    leaky_slope: float
    mean_norm_at_inference: MeanNormAtInference

    @model_validator(mode="before")
    @classmethod
    def _has_no_old_keys(cls, values: Any) -> Any:
        sizes = values.get("sizes") if isinstance(values, dict) else None
        if not isinstance(sizes, dict) or "mean_norm" not in sizes:
            return values
        norm = "mean" if sizes["mean_norm"] else "none"  # other norms came later
        others = {key: value for key, value in sizes.items() if key != "mean_norm"}
        return values | {"sizes": others | {"norm": norm}}

    @classmethod
    def of(cls, config: Config) -> Self:
        """The architecture that a config names."""
        model = config.model
        sizes = replace(PRESETS[model.preset], **model.changes)
        others = model.model_dump(include=cls.model_fields.keys() - {"sizes"})
        return cls(sizes=sizes, **others)

    def build(self, in_channels: int) -> TwoStageGenerator:
        """The folded generator on the meta device, for scans encoded in so many channels."""
        network = build_network(
            self.sizes,
            in_channels=in_channels,
            folded=True,
            **self.model_dump(exclude={"sizes"}),
        )
        return network.generator


class TrainingSource(_Entry):
    """A file that the model was trained on, or a signal of it, by name and hash."""

    name: str
    signal: str
    sha256: str
    num_crops: NonNegativeInt
    licence: str | None


class ModelCard(_Entry):
    """Content of `model.json`.

    Attributes:
        format_version: Version of the folder's format.
        name: Name of the training run.
        recipe: Recipe of the training run.
        architecture: The network's architecture.
        encoding: Network input of partial scans.
        coverage: Mean dwell of the scans it was trained on; it expects scans like these.
        more_coverages: Further mean dwells that it was trained on.
        calibration: Calibration of its error map.
        metrics: Metrics of its training and validation; null for values that are not finite.
        training_data: Files that it was trained on.
        config: Resolved config of its training.
        versions: Versions of the software that wrote the folder.
        weights_sha256: SHA-256 of `model.safetensors`.
    """

    format_version: int
    name: str
    recipe: str
    architecture: ArchitectureCard
    encoding: Encoding
    coverage: float
    more_coverages: tuple[float, ...] = ()
    calibration: ErrorCalibration | ErrorNetwork | ErrorTable | None
    metrics: dict[str, float | None]
    training_data: tuple[TrainingSource, ...]
    config: dict[str, Any]
    versions: dict[str, str]
    weights_sha256: str = ""


def read_card(folder: str | Path) -> ModelCard:
    """The card of the model in `folder`; its weights are not read.

    Raises:
        ArtifactError: It is missing, corrupt or of a newer version.
    """
    folder = Path(folder)
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
        raise damaged(path, f"one that cannot be read ({error})") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise damaged(path, "no format_version")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            expected=f"model format {FORMAT_VERSION} or older",
            found=f"format {version}",
            where=folder,
            fix="update stem-complete",
        )
    try:
        # Earlier versions wrote passwords that URLs in the config had.
        return ModelCard.model_validate(put_aside(values, keep=False))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise damaged(path, f"{first['msg'].lower()} at {key}") from None


def damaged(path: Path, found: str) -> ArtifactError:
    """Error about a file of a model folder that is damaged."""
    return ArtifactError(
        expected=f"a whole {path.name}",
        found=found,
        where=path.parent,
        fix="export or copy the model again",
    )

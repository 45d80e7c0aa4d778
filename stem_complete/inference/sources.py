"""From what a user calls a model to its folder, and from a folder into MLflow's registry.

Models that are not on a disk are fetched once, and that of a checkpoint is made once:
`models/<hash>` in the user's cache folder is a model folder, named by the hash of its card, which
has the hash of the weights. A draft is renamed once both are right, and the weights are hashed
again whenever they are used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import stem_complete
from stem_complete.console import counted
from stem_complete.errors import ArtifactError
from stem_complete.files import atomic_folder, exclusive, sha256
from stem_complete.inference.artifact import Artifact, load_artifact, save_artifact
from stem_complete.inference.card import CARD_FILE, ModelCard, read_card
from stem_complete.vocabulary import RELEASED, WEIGHTS_FILE

if TYPE_CHECKING:
    from stem_complete.tracking import Registered

MODEL_FOLDER = "model"
"""Where a training run keeps its model, inside its own folder."""

RELEASED_MODEL = Path(stem_complete.__file__).parent / RELEASED
"""The model that comes with the package."""

CHECKPOINTS = "checkpoints"
_CHECKPOINT_FILE = "metadata.json"
_OF_MLFLOW = ("models:/", "runs:/")
_OTHERS_MAY_FETCH_S = 600.0

_Fetch = Callable[[str, Path], object]
"""Puts the file of that name into a folder."""


def load_model(source: str | Path | None = None) -> Artifact:
    """The model that `source` names, on the CPU; see `load_completer`.

    Raises:
        ArtifactError: There is no model, or it cannot be used.
        TrackingError: MLflow has no such model, or does not answer.
        StorageError: A URL cannot be read.
        MissingPackageError: MLflow, or what opens a URL, is not installed.
    """
    return load_artifact(model_folder(source))


def model_folder(source: str | Path | None = None) -> Path:
    """The folder of the model that `source` names, fetched if it is not on a disk here.

    That of a checkpoint is made, without a calibrated error map, as that takes the store that it
    was trained on.

    Raises:
        ArtifactError: There is no model.
        TrackingError: MLflow has no such model, or does not answer.
        StorageError: A URL cannot be read.
        MissingPackageError: MLflow, or what opens a URL, is not installed.
    """
    if source in (None, RELEASED):
        return RELEASED_MODEL
    name = str(source)
    if name.startswith(_OF_MLFLOW):
        # MLflow is imported here alone, and not to open a folder.
        from stem_complete.tracking import download, find_model

        found = find_model(name)
        if not found.in_mlflow:
            return model_folder(found.place)
        return fetched(lambda file, into: download(found, file, into), name, found.weights_sha256)
    if "://" in name:
        return _from_url(name)
    folder = Path(name)
    if _is_checkpoint(folder):
        return _of_checkpoint(folder)
    if not (folder / CARD_FILE).exists() and (folder / MODEL_FOLDER).is_dir():
        return folder / MODEL_FOLDER
    if (folder / CHECKPOINTS).is_dir():
        raise ArtifactError(
            expected=f"a run with a {MODEL_FOLDER} folder",
            found="checkpoints only",
            where=folder,
            fix="finish its training, name one of its checkpoints, or make a model with "
            "stem_complete.inference.export_checkpoint(run_folder, output)",
        )
    return folder


def fetched(fetch: _Fetch, name: str, weights_sha256: str = "") -> Path:
    """The folder in the user's cache of a model that `fetch` brings, if it is not there yet.

    Args:
        fetch: Brings a file.
        name: What errors call the model.
        weights_sha256: What its weights must be, "" if only its card says.

    Raises:
        ArtifactError: What came is damaged, or another model.
    """
    with tempfile.TemporaryDirectory() as temporary:
        fetch(CARD_FILE, Path(temporary))
        card = _read_card(Path(temporary), name)
        if weights_sha256 not in ("", card.weights_sha256):
            raise _other_weights(name, card.weights_sha256, weights_sha256)
        content = (Path(temporary) / CARD_FILE).read_bytes()
    folder = cache_folder() / "models" / hashlib.sha256(content).hexdigest()
    with exclusive(folder, wait_s=_OTHERS_MAY_FETCH_S):
        if _is_whole(folder, card):
            return folder
        with atomic_folder(folder) as draft:
            (draft / CARD_FILE).write_bytes(content)
            fetch(WEIGHTS_FILE, draft)
            if (found := sha256(draft / WEIGHTS_FILE)) != card.weights_sha256:
                raise _other_weights(name, found, card.weights_sha256)
    return folder


def cache_folder() -> Path:
    """`stem-complete` in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stem-complete"


def register_model(
    source: str | Path, name: str, alias: str | None = None, *, uri: str | None = None
) -> Registered:
    """Puts the model of a run, or of a model folder, into MLflow's registry as a new version.

    Args:
        source: As for `load_completer`, but no checkpoint.
        name: Name of the registered model.
        alias: Alias that leads to this version from now on.
        uri: Tracking URI; by default MLFLOW_TRACKING_URI, or the database beside the run, or
            the one in ./runs.

    Raises:
        ArtifactError: There is no model, or it cannot be used.
        TrackingError: The server does not answer, or does not take the name or alias.
        MissingPackageError: MLflow is not installed.
    """
    from stem_complete.tracking import URI_VARIABLE, database_above, register_files
    from stem_complete.tracking.registry import WEIGHTS_TAG

    if _is_checkpoint(source):
        raise ArtifactError(
            expected="a model with its error map",
            found="a checkpoint",
            where=source,
            fix="make a model of it with "
            "stem_complete.inference.export_checkpoint(checkpoint, output)",
        )
    folder, named = model_folder(source), str(source)
    card = load_artifact(folder).card  # and it is whole
    run = folder.absolute().parent
    return register_files(
        [folder / WEIGHTS_FILE, folder / CARD_FILE],
        name,
        alias,
        run=named.rstrip("/").removesuffix(f"/{MODEL_FOLDER}") if ":/" in named else str(run),
        title=card.name,
        tags={WEIGHTS_TAG: card.weights_sha256, "recipe": card.recipe},
        description=described(card),
        uri=uri or os.environ.get(URI_VARIABLE) or database_above(run),
    )


def called(card: ModelCard) -> str:
    """What users call a model: the released one by that name, not by that of its training run."""
    return RELEASED if card.weights_sha256 == _released_sha256() else card.name


@cache
def _released_sha256() -> str:
    return read_card(RELEASED_MODEL).weights_sha256


def described(card: ModelCard) -> str:
    """A model in a few lines of Markdown, for people who choose one."""
    coverages = sorted({card.coverage, *card.more_coverages})
    lines = [
        f"`{called(card)}` of the recipe `{card.recipe}`, for scans of coverage "
        + ", ".join(f"1/{1 / coverage:.4g}" for coverage in coverages)
        + ("." if card.calibration else ", without error map."),
        "",
        *(f"* {name}: {value:.4g}" for name, value in card.metrics.items() if value is not None),
        f"* trained on {counted(len(card.training_data), 'file')}",
        f"* stem-complete {card.versions.get('stem_complete', 'unknown')}",
    ]
    return "\n".join(lines)


def _is_checkpoint(source: str | Path) -> bool:
    return (Path(source) / _CHECKPOINT_FILE).is_file()


def _of_checkpoint(checkpoint: Path) -> Path:
    """A model folder in the user's cache, so that it has a hash and workers can have copies."""
    from stem_complete.inference.export import checkpoint_artifact
    from stem_complete.storage.paths import storage_path
    from stem_complete.training import load_checkpoint

    artifact = checkpoint_artifact(load_checkpoint(storage_path(checkpoint)))
    with tempfile.TemporaryDirectory() as temporary:
        made = save_artifact(Path(temporary, MODEL_FOLDER), artifact)
        return fetched(lambda file, into: shutil.copy(made / file, into / file), str(checkpoint))


def _from_url(url: str) -> Path:
    from stem_complete.storage.paths import clear_errors, is_local, storage_path

    place = storage_path(url)
    if is_local(place):
        return model_folder(str(place))
    with clear_errors(place):
        if not (place / CARD_FILE).exists():
            place = place / MODEL_FOLDER

    def fetch(file: str, into: Path) -> None:
        with (
            clear_errors(place),
            (into / file).open("wb") as local,
            (place / file).open("rb") as remote,
        ):
            shutil.copyfileobj(remote, local)

    return fetched(fetch, url)


def _is_whole(folder: Path, card: ModelCard) -> bool:
    """Whether the cached folder has the weights; what a disk spoilt is fetched again."""
    weights = folder / WEIGHTS_FILE
    return weights.is_file() and sha256(weights) == card.weights_sha256


def _read_card(folder: Path, name: str) -> ModelCard:
    try:
        return read_card(folder)
    except ArtifactError as error:  # which names a temporary folder
        raise ArtifactError(
            expected=error.expected, found=error.found, where=name, fix=error.fix
        ) from None


def _other_weights(name: str, found: str, expected: str) -> ArtifactError:
    return ArtifactError(
        expected=f"weights with SHA-256 {expected[:12]}...",
        found=f"{found[:12]}...",
        where=name,
        fix="register or copy the model again",
    )

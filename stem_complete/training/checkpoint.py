"""Checkpoints: folders that are either whole or not there.

<run folder>/checkpoints/step-00001234/
    state.pt        networks, optimizer, ALRC moments, running means (tensors only)
    metadata.json   step, resolved config, metrics, versions, SHA-256 of state.pt
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import stem_complete
from stem_complete.errors import ArtifactError

FORMAT_VERSION = 1
STATE_FILE, METADATA_FILE = "state.pt", "metadata.json"


class Checkpoint(NamedTuple):
    """A checkpoint as read back.

    Attributes:
        folder: Where it lies.
        step: Optimizer steps taken when it was written.
        config: Resolved config, as plain values.
        metrics: Latest metrics.
        state: State of the run, on the CPU.
    """

    folder: Path
    step: int
    config: dict[str, Any]
    metrics: dict[str, float]
    state: dict[str, Any]


def save_checkpoint(
    run_folder: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    keep: int,
) -> Path:
    """Folder of the checkpoint that was written; older ones than the last `keep` are removed."""
    checkpoints = run_folder / "checkpoints"
    folder = checkpoints / f"step-{step:08d}"
    unfinished = checkpoints / f".unfinished-{folder.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    with (unfinished / STATE_FILE).open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "config": dict(config),
        "metrics": dict(metrics),
        "versions": {"stem_complete": stem_complete.__version__, "torch": torch.__version__},
        "sha256": _sha256(unfinished / STATE_FILE),
    }
    (unfinished / METADATA_FILE).write_text(json.dumps(metadata, indent=2))

    # A rename is the commit: whoever looks sees the whole folder or none.
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    for old in checkpoint_folders(run_folder)[keep:]:
        shutil.rmtree(old)
    return folder


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"), reverse=True)


def latest_checkpoint(run_folder: Path) -> Checkpoint | None:
    """Newest checkpoint of a run that can be read; those that cannot are passed over, loudly."""
    for folder in checkpoint_folders(run_folder):
        try:
            return load_checkpoint(folder)
        except ArtifactError as error:
            warnings.warn(f"{error}; the one before it is used", stacklevel=2)
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        ArtifactError: It is missing, incomplete, corrupt or of a newer version.
    """
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text())
        found = _sha256(folder / STATE_FILE)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            expected="a checkpoint", found=f"an unreadable one ({error})", where=folder
        ) from None
    if metadata["format_version"] > FORMAT_VERSION:
        raise ArtifactError(
            expected=f"checkpoint format {FORMAT_VERSION} or older",
            found=f"format {metadata['format_version']}",
            where=folder,
            fix="update stem-complete",
        )
    if found != metadata["sha256"]:
        raise ArtifactError(
            expected="the state that was written", found="a corrupt state.pt", where=folder
        )
    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return Checkpoint(folder, metadata["step"], metadata["config"], metadata["metrics"], state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""One checkpoint in its folder: whole or not there.

<run folder>/checkpoints/step-00001234/
    task.safetensors        networks, ALRC moments, running means
    optimizer.safetensors   the optimizer's state, as Adam's moments
    average.safetensors     running average of the weights, where the run has one
    metadata.json           step, score, config, metrics, examples, spikes, best score, hard
                            examples, versions; size and SHA-256 of these files

`metadata.json` is written last and is the commit, on any file system: a folder without it is
unfinished. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from upath import UPath

import stem_complete
from stem_complete.credentials import put_aside
from stem_complete.data.examples import ExamplesRecord
from stem_complete.errors import ArtifactError
from stem_complete.storage.paths import (
    FileContent,
    clear_errors,
    make_folder,
    read_chunks,
    remove,
    storage_path,
    write_atomically,
    write_chunks,
)
from stem_complete.training.patience import BestScore
from stem_complete.training.spikes import Spike
from stem_complete.training.tensor_file import HostCopy, unpack

FORMAT_VERSION = 2
METADATA_FILE = "metadata.json"
_SUFFIX = ".safetensors"
_SEAL = "metadata_sha256"  # hash of the other metadata


class DamagedCheckpointError(ArtifactError):
    """A checkpoint that is corrupt or unfinished; the one before it may be whole."""


class Checkpoint(NamedTuple):
    """A checkpoint as read back.

    Attributes:
        folder: Where it lies.
        step: Optimizer steps taken when it was written.
        config: Resolved config, as plain values.
        metrics: Latest metrics.
        state: Saved tensors by part and name, on the CPU and contiguous.
        examples: What it was trained on; None in checkpoints of earlier versions.
        spikes: Losses that were clipped hardest, the hardest first.
        best: The best validation so far; None before one, and in checkpoints of earlier versions.
        hard_examples: See `HardExamples.state`; None where the run keeps none.
    """

    folder: UPath
    step: int
    config: dict[str, Any]
    metrics: dict[str, float]
    state: dict[str, dict[str, Tensor]]
    examples: ExamplesRecord | None = None
    spikes: tuple[Spike, ...] = ()
    best: BestScore | None = None
    hard_examples: dict[str, Any] | None = None

    def zeros(self, device: str) -> Checkpoint:
        """The same with zeros on `device`; on "meta" they take no memory and travel as shapes."""
        state = {
            part: {
                name: torch.zeros_like(tensor, device=device) for name, tensor in tensors.items()
            }
            for part, tensors in self.state.items()
        }
        return self._replace(state=state)


def write_checkpoint(
    folder: UPath,
    copies: Mapping[str, HostCopy],
    metadata: Mapping[str, Any],
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Writes a checkpoint in place of what is in `folder`.

    Args:
        folder: A checkpoint folder, or none yet.
        copies: Parts of the state by name.
        metadata: Step, score, config, metrics, examples, spikes, best score, hard examples.
        before_commit: Called once the rest is written; what it raises leaves no checkpoint.

    Raises:
        StorageError: The storage cannot be written.
    """
    with clear_errors(folder):
        remove_checkpoint(folder)
        make_folder(folder)
        files = {}
        for part, copy in copies.items():
            name = part + _SUFFIX
            files[name] = write_chunks(folder / name, copy.chunks())._asdict()
        versions = {"stem_complete": stem_complete.__version__, "torch": torch.__version__}
        values = {
            "format_version": FORMAT_VERSION,
            **metadata,
            "versions": versions,
            "files": files,
        }
        text = json.dumps(values | {_SEAL: _hash(values)}, indent=2)
        before_commit()
        write_atomically(folder / METADATA_FILE, text.encode())


def load_checkpoint(folder: str | Path | UPath) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        DamagedCheckpointError: It is corrupt or incomplete.
        ArtifactError: It is of another format.
        StorageError: The storage cannot be read.
    """
    folder = storage_path(folder)
    metadata = read_metadata(folder)
    state = {}
    for name, content in metadata["files"].items():
        expected = FileContent(**content)
        file = torch.empty(expected.size, dtype=torch.uint8)
        with clear_errors(folder):
            try:
                found = read_chunks(folder / name, file.numpy().data)
            except FileNotFoundError:
                raise _damaged(folder, f"no {name}") from None
        if found.size != expected.size:
            raise _damaged(folder, f"a {name} that is not {expected.size:,} bytes long")
        if found != expected:
            raise _damaged(folder, f"a corrupt {name}")
        state[name.removesuffix(_SUFFIX)] = unpack(file)
    return Checkpoint(
        folder,
        metadata["step"],
        metadata["config"],
        metadata["metrics"],
        state,
        examples_of(metadata),
        spikes_of(metadata),
        best_of(metadata),
        metadata.get("hard_examples"),
    )


def examples_of(metadata: Mapping[str, Any]) -> ExamplesRecord | None:
    """What a checkpoint with this metadata was trained on; None if it does not say."""
    examples = metadata.get("examples")
    return None if examples is None else ExamplesRecord(**examples)


def spikes_of(metadata: Mapping[str, Any]) -> tuple[Spike, ...]:
    """The losses that were clipped hardest; none in checkpoints of earlier versions."""
    return tuple(Spike(**spike) for spike in metadata.get("spikes", ()))


def best_of(metadata: Mapping[str, Any]) -> BestScore | None:
    """The best validation so far; None in checkpoints of earlier versions."""
    best = metadata.get("best")
    return None if best is None else BestScore(**best)


def read_metadata(folder: str | Path | UPath) -> dict[str, Any]:
    """Content of `metadata.json` in `folder`; weights are not read.

    Raises:
        DamagedCheckpointError: It is missing or corrupt.
        ArtifactError: It is of another format.
        StorageError: The storage cannot be read.
    """
    folder = storage_path(folder)
    with clear_errors(folder):
        try:
            values = json.loads((folder / METADATA_FILE).read_bytes())
            version = values["format_version"]
        except FileNotFoundError:
            raise _damaged(folder, f"an unfinished one (no {METADATA_FILE})") from None
        except (ValueError, KeyError, TypeError):
            raise _damaged(folder, f"a corrupt {METADATA_FILE}") from None
    seal = values.pop(_SEAL, None)
    if (seal is None and version != 1) or (seal is not None and seal != _hash(values)):
        raise _damaged(folder, f"a corrupt {METADATA_FILE}")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            expected=f"checkpoint format {FORMAT_VERSION}",
            found=f"format {version}",
            where=str(folder),
            fix="update stem-complete"
            if version > FORMAT_VERSION
            else "it is too old to go on from: train anew under another name",
        )
    # Earlier versions wrote passwords that URLs in the config had.
    return dict(values) | {"config": put_aside(values["config"], keep=False)}


def remove_checkpoint(folder: UPath) -> None:
    """Removes a checkpoint, its commit first: after a crash the rest is unfinished, not corrupt."""
    remove(folder / METADATA_FILE)
    remove(folder)


def _hash(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()


def _damaged(folder: UPath, found: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        expected="a whole checkpoint",
        found=found,
        where=str(folder),
        fix="go on from another checkpoint, or copy this one again",
    )

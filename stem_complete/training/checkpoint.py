"""The checkpoints of a run: written beside training, the last ones and the best ones kept."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from upath import UPath

from stem_complete.config import CHECKPOINTS_FOLDER
from stem_complete.data.examples import ExamplesRecord
from stem_complete.storage.claim import Claim, ClaimLostError
from stem_complete.storage.paths import (
    clear_errors,
    list_folder,
    make_folder,
    remove,
    storage_path,
    write_atomically,
)
from stem_complete.training.checkpoint_folder import (
    METADATA_FILE,
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    read_metadata,
    remove_checkpoint,
    write_checkpoint,
)
from stem_complete.training.patience import BestScore
from stem_complete.training.spikes import Spike
from stem_complete.training.tensor_file import HostCopy

_log = logging.getLogger(__name__)

State = Mapping[str, Mapping[str, Tensor]]
"""Parts of a run's state, "task" and "optimizer", each with its tensors by name."""


class Checkpoints:
    """The checkpoints of a run. One process writes them; any number may read.

    Args:
        run_folder: Path or URL.
        keep: Number of newest checkpoints to keep.
        keep_best: Number of checkpoints with the lowest score to keep besides.
        claim: What lets this process write; None if nothing else can write there.

    Raises:
        StorageError: `run_folder` is a URL of an unknown kind.
    """

    def __init__(
        self,
        run_folder: str | Path | UPath,
        *,
        keep: int = 2,
        keep_best: int = 1,
        claim: Claim | None = None,
    ) -> None:
        self.folder = storage_path(run_folder) / CHECKPOINTS_FOLDER
        self.failed: Exception | None = None  # why the last write failed
        self._keep, self._keep_best = keep, keep_best
        self._claim = claim
        self._copies: dict[str, HostCopy] = {}
        self._writer: threading.Thread | None = None
        self._num_lost = 0  # since the last one that was written
        self._held: tuple[int, dict[str, Any]] | None = None  # step and metadata of the copy
        self._is_doubted = False
        self._saved: int | None = None
        self._scores: list[float] | None = None
        self._damaged: set[UPath] = set()

    def save(
        self,
        step: int,
        state: State,
        *,
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
        score: float | None,
        examples: ExamplesRecord | None = None,
        spikes: Sequence[Spike] = (),
        best: BestScore | None = None,
        hard_examples: Mapping[str, Any] | None = None,
        hold: bool = False,
    ) -> None:
        """Copies a state to host memory; a thread writes it while training goes on.

        Waits first if the last one is still being written. A write that fails costs this
        checkpoint and not the run: it is logged, and raised by `wait`. A step that this object has
        saved already is not saved again: its state follows from the step.

        Args:
            step: Optimizer steps taken.
            state: Its tensors may be on any device and in any memory format, and may change once
                this returns.
            config: Resolved config, as plain values.
            metrics: Latest metrics.
            score: Validation score of this very step, the lower the better; None if there is none.
            examples: What the run is trained on.
            spikes: Losses that were clipped hardest.
            best: The best validation so far.
            hard_examples: See `HardExamples.state`.
            hold: Writes it only once `settle` says that it is sound, or by `wait` or `close`.
        """
        self._join()
        if step == self._saved and self.failed is None:
            return
        self._held = None  # in doubt until now, or it would have been written
        self._copies = {part: self._host_copy(part, tensors) for part, tensors in state.items()}
        self._saved, self.failed = step, None
        if self._scores is not None and score is not None:
            self._scores.append(score)
        metadata = {
            "step": step,
            "score": score,
            "config": dict(config),
            "metrics": dict(metrics),
            "examples": examples and examples._asdict(),
            "spikes": [spike._asdict() for spike in spikes],
            "best": best and best._asdict(),
            "hard_examples": hard_examples,
        }
        self._held, self._is_doubted = (step, metadata), False
        if not hold:
            self._write_held()

    def settle(self, step: int, *, sound: bool) -> None:
        """Tells how a later step went, which shows whether the state that is held is worth writing.

        From ruined weights no loss is finite, whatever the examples. A state is in doubt while all
        steps since are skipped.

        Args:
            step: Steps taken with it.
            sound: Whether its losses and gradients were finite.
        """
        if self._held is None or step <= self._held[0]:
            return
        self._is_doubted = not sound
        if sound:
            self._write_held()
        else:
            self._scores = None

    def is_best(self, score: float) -> bool:
        """Whether a checkpoint with this score would be kept for it."""
        if self._scores is None:
            self._join()
            self._scores = list(_scores(self._whole()).values())
        better = sum(other <= score for other in self._scores)
        return math.isfinite(score) and better < self._keep_best

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            StorageError: The last write failed.
            ClaimLostError: Another process has taken over the run.
        """
        self._write_held()
        self._join()
        if self.failed is not None:
            raise self.failed

    def close(self) -> None:
        """Waits until all is written or has failed, and frees the host memory."""
        self._write_held()
        self._join()
        self._copies.clear()

    def check_writable(self) -> None:
        """Checks that checkpoints can be written, before the first one is due.

        Raises:
            StorageError: Nothing can be written: no permission, no bucket, no credentials, no room.
        """
        probe = self.folder / ".writable"
        with clear_errors(self.folder):
            make_folder(self.folder)
            write_atomically(probe, b"")
            remove(probe)

    def folders(self) -> list[UPath]:
        """Folders of complete checkpoints, newest first; their content is not checked."""
        with clear_errors(self.folder):
            return [folder for folder in self._all_folders() if (folder / METADATA_FILE).exists()]

    def readable(self) -> dict[UPath, dict[str, Any]]:
        """Readable metadata by folder, newest first; weights are not read."""
        found = {}
        for folder in self._all_folders():
            with suppress(DamagedCheckpointError):
                found[folder] = read_metadata(folder)
        return found

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are passed over with a warning.

        Raises:
            ArtifactError: It was written by another version that is not understood.
            StorageError: The storage cannot be read.
        """
        self._join()
        return self._first_whole(self._all_folders())

    def best(self) -> Checkpoint | None:
        """The whole checkpoint with the lowest score; None if none has a score.

        Raises:
            ArtifactError: As for `latest`.
            StorageError: As for `latest`.
        """
        self._join()
        return self._first_whole(_scores(self.readable()))

    def _write_held(self) -> None:
        """Starts the thread that writes, unless there is nothing to write, or that is in doubt."""
        if self._held is None or self._is_doubted:
            return
        (step, metadata), self._held = self._held, None
        # Not a daemon: the interpreter does not end in the middle of a write.
        self._writer = threading.Thread(
            target=self._write, args=(step, metadata), name=f"checkpoint-{step}"
        )
        self._writer.start()

    def _write(self, step: int, metadata: Mapping[str, Any]) -> None:
        folder = self.folder / f"step-{step:08d}"
        try:
            self._check_claim()
            write_checkpoint(folder, self._copies, metadata, self._check_claim)
        except ClaimLostError as error:  # what is there is another's
            self.failed = error
        except Exception as error:  # whatever it is, the run is told by `wait`
            self.failed, self._scores = error, None
            self._num_lost += 1
            # Of an outage that lasts, the 1st, 10th, 100th ... is told.
            is_told = str(self._num_lost).strip("0") == "1"
            if is_told:
                others = f" (as {self._num_lost - 1} before it)" if self._num_lost > 1 else ""
                _log.warning(
                    "the checkpoint of step %d is lost%s, training goes on: %s; %s",
                    *(step, others, error, self._newest_for_message()),
                )
            remove = partial(remove_checkpoint, folder)
            _try("remove what was written of it", remove, is_told=is_told)
        else:
            if self._num_lost > 1:
                _log.warning(
                    "the checkpoint of step %d is written; %d before it were lost",
                    *(step, self._num_lost),
                )
            self._num_lost = 0
            self._damaged.discard(folder)
            _try("remove old checkpoints", partial(self._prune, step))

    def _check_claim(self) -> None:
        if self._claim is not None:
            self._claim.check()

    def _prune(self, newest: int) -> None:
        """Removes checkpoints that are neither new nor best, and unfinished or damaged ones."""
        folders, whole = self._all_folders(), self._whole()
        # `latest` went back before any later ones; those that it did not see are none of ours.
        ours = {folder: values for folder, values in whole.items() if values["step"] <= newest}
        kept = {*list(ours)[: self._keep], *list(_scores(ours))[: self._keep_best]}
        for folder in folders:
            if folder in ours.keys() - kept or folder not in whole:
                remove_checkpoint(folder)

    def _whole(self) -> dict[UPath, dict[str, Any]]:
        """Metadata of readable checkpoints that are not known as damaged, newest first."""
        readable = self.readable()
        return {folder: readable[folder] for folder in readable if folder not in self._damaged}

    def _first_whole(self, folders: Iterable[UPath]) -> Checkpoint | None:
        passed_over = []
        found = None
        for folder in folders:
            try:
                found = load_checkpoint(folder)
                break
            except DamagedCheckpointError as error:
                self._damaged.add(folder)
                passed_over.append(error)
        used = f"{found.folder} is used instead" if found else "there is no other"
        for damage in passed_over:
            _log.warning("%s; %s", damage, used)
        return found

    def _all_folders(self) -> list[UPath]:
        """Folders of all checkpoints, newest first, with unfinished ones."""
        folders = [path for path in list_folder(self.folder) if path.name.startswith("step-")]
        # Steps beyond eight digits have longer names.
        return sorted(folders, key=lambda folder: (len(folder.name), folder.name), reverse=True)

    def _newest_for_message(self) -> str:
        try:
            folders = self.folders()
        except Exception:  # the storage is what failed
            return "earlier ones cannot be listed either"
        return f"the newest is {folders[0]}" if folders else "there is none yet"

    def _host_copy(self, part: str, tensors: Mapping[str, Tensor]) -> HostCopy:
        copy = self._copies.get(part)
        if copy is None or not copy.fits(tensors):
            copy = HostCopy(tensors)
        copy.fill(tensors)
        return copy

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None


def _scores(metadata: Mapping[UPath, Mapping[str, Any]]) -> dict[UPath, float]:
    """Finite scores by folder, lowest first; of equals the older."""
    scores = {folder: values["score"] for folder, values in metadata.items()}
    found = {f: score for f, score in scores.items() if score is not None and math.isfinite(score)}
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0].name)))


def _try(what: str, action: Callable[[], None], *, is_told: bool = True) -> None:
    """Runs an action whose failure loses no checkpoint: it is logged, if `is_told`."""
    try:
        action()
    except Exception as error:
        if is_told:
            _log.warning("could not %s: %s", what, error)

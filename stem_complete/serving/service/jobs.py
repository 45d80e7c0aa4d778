"""Jobs of many scans, as folders.

    <storage>/jobs/<id>/job.json        how scans are read and completed
                        scans/          the scans as they came
                        dwells/         their dwell maps
                        started         when it was started, and so its place in the queue
                        cancelled       if it was
                        model.json      the card of the model that completes it
                        progress.json   how far it is
                        output/         of the batch engine, with its manifest
                        ended.json      what became of each scan

The batch engine completes each scan once, whatever is killed in between.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.scans import RasterScan
from stem_complete.files import atomic_file, write_atomically
from stem_complete.inference.card import ModelCard
from stem_complete.inference.image_files import COMPLETED, Outputs, write_tiff
from stem_complete.serving.batch.files import SUFFIXES
from stem_complete.serving.service.bodies import Body
from stem_complete.serving.service.completing import How
from stem_complete.serving.service.folders import Folders, Kept
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.media import BY_SUFFIX
from stem_complete.serving.service.problems import Problem, bad
from stem_complete.vocabulary import CompletionFormat

State = Literal["open", "queued", "running", "done", "failed", "cancelled"]

_MODEL = "model.json"
_ADDING = threading.Lock()
_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, BY_SUFFIX))})$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Job(Kept):
    """One job.

    Args:
        folder: Its folder.
    """

    WHAT, FILE = "job", "job.json"
    FOLDERS = ("scans", "dwells")
    PARTS = ("scans", "output", "ended.json")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.output = folder / "output"
        self._scans, self._dwells = folder / "scans", folder / "dwells"

    @property
    def settings(self) -> dict[str, Any]:
        """How scans are read and completed."""
        return _json(self.folder / self.FILE)

    @property
    def how(self) -> How:
        """What is found of each scan."""
        return How(**self.settings["how"])

    @property
    def outputs(self) -> Outputs:
        """What is written of each scan."""
        return Outputs(**self.settings["how"], png=self.settings["png"])

    @property
    def options(self) -> ScanOptions:
        """What scans do not say of themselves."""
        told = self.settings["options"]
        pairs = {name: told[name] and tuple(told[name]) for name in ("shape", "origin")}
        return ScanOptions(**(told | pairs))

    @property
    def file_format(self) -> CompletionFormat:
        """Of the output."""
        file_format: CompletionFormat = self.settings["format"]
        return file_format

    @property
    def model(self) -> ModelCard | None:
        """The card of the model that completes it, None if it was not begun."""
        told = _json(self.folder / _MODEL)
        return ModelCard.model_validate(told) if told else None

    @property
    def started_s(self) -> float | None:
        """When it was started [s since 1970], None if it was not."""
        try:
            return float((self.folder / "started").read_text())
        except FileNotFoundError:
            return None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return (self.folder / "cancelled").exists()

    @property
    def ended(self) -> dict[str, Any]:
        """What became of its scans; empty if it has not ended."""
        return _json(self.folder / "ended.json")

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be done for it."""
        return self.started_s is not None and not self.is_cancelled and not self.ended

    def names(self) -> list[str]:
        """Of its scans."""
        return sorted(path.stem for path in self._scans.iterdir() if not path.name.startswith("."))

    def add(self, name: str, body: Body, scan: RasterScan, limits: Limits) -> bool:
        """Takes a scan, or another one in its place; whether it is new.

        Raises:
            Problem: The job was started, the name cannot be one of a file, or there are too many.
        """
        if self.started_s is not None or self.is_cancelled:
            raise Problem(
                409,
                expected="scans before the job is started",
                found="one after that",
                fix="make another job",
                where="job",
            )
        stem = stem_of(name)
        known = self.names()
        if stem not in known and len(known) >= limits.job_scans:
            raise Problem(
                413,
                expected=f"at most {limits.job_scans} scans in a job",
                found="more",
                fix="make another job",
                where="job",
            )
        if body.along is not None:
            raise bad(
                "scans that have their positions in a job",
                "a path beside one",
                "send samples with x and y in them",
            )
        with _ADDING:  # two requests may send the same scan at once
            self._write(stem, name, body, scan)
        return stem not in known

    def _write(self, stem: str, name: str, body: Body, scan: RasterScan) -> None:
        for folder in (self._scans, self._dwells):
            for before in folder.glob(f"{stem}.*"):
                if before.stem == stem:
                    before.unlink()
        if body.dwell_map is not None:  # the engine would take the two images for two scans
            dwell = self._dwells / f"{stem}.npy"
            with atomic_file(dwell) as draft, draft.open("wb") as file:
                np.save(file, body.dwell_map, allow_pickle=False)
            with atomic_file(self._scans / f"{stem}.tif") as draft:
                info = {"title": scan.about.title or name}
                write_tiff(draft, scan.intensity.astype(np.float32), scan.pixel_size_nm, info)
            return
        if body.dwell is not None:
            _move(body.dwell, self._dwells / f"{stem}{body.dwell.suffix}")
        _move(body.scan, self._scans / f"{stem}{body.scan.suffix}")

    def bodies(self) -> dict[str, Body]:
        """Its scans with their dwell maps, by name."""
        dwells = {path.stem: path for path in self._dwells.iterdir()}
        return {
            path.stem: Body(path, dwells.get(path.stem), name=path.name)
            for path in sorted(self._scans.iterdir())
            if not path.name.startswith(".")
        }

    def begin(self, model: ModelCard) -> Path:
        """Notes the model, and lists scans and dwell maps as the batch engine reads them."""
        write_atomically(self.folder / _MODEL, model.model_dump_json())
        lines = [
            str(body.scan) if body.dwell is None else f"{body.scan}\t{body.dwell}"
            for body in self.bodies().values()
        ]
        file = self.folder / "scans.txt"
        write_atomically(file, "".join(f"{line}\n" for line in lines))
        return file

    def start(self) -> None:
        """Puts it into the queue; a second time changes nothing.

        Raises:
            Problem: It has no scan, or was cancelled.
        """
        if self.is_cancelled or not self.names():
            raise Problem(
                409,
                expected="a job with scans",
                found="one that was cancelled" if self.is_cancelled else "none in it",
                fix="make another job" if self.is_cancelled else "send scans first",
                where="job",
            )
        if self.started_s is None:
            write_atomically(self.folder / "started", repr(time.time()))

    def cancel(self) -> None:
        """Ends it after the scan that is under way; what is completed stays."""
        if not self.ended:
            (self.folder / "cancelled").touch()

    def tell_progress(self, num_settled: int, num: int) -> None:
        """Notes how far it is."""
        told = {"settled": num_settled, "total": num}
        write_atomically(self.folder / "progress.json", json.dumps(told))

    def end(self, state: State, failed: dict[str, str], notes: dict[str, str]) -> None:
        """Notes what became of it; scans are called as the client does."""
        told = {
            "state": state,
            "failed": {_called(scan): why for scan, why in failed.items()},
            "notes": {_called(scan): note for scan, note in notes.items()},
            "ended_s": time.time(),
        }
        write_atomically(self.folder / "ended.json", json.dumps(told))

    def image_of(self, name: str) -> Path:
        """Where the completed image of a scan is, or will be."""
        return self.output / f"{stem_of(name)}{self._ending}"

    @property
    def _ending(self) -> str:
        return f"{COMPLETED}{SUFFIXES[self.file_format]}"

    def completed(self) -> list[str]:
        """Names of the scans that are completed so far."""
        names = (name for name in self.results() if name.endswith(self._ending))
        return [name.removesuffix(self._ending) for name in names]

    def results(self) -> dict[str, Path]:
        """What is completed so far: files, or folders of OME-Zarr, by name."""
        if not self.output.is_dir():
            return {}
        return {
            path.name: path
            for path in sorted(self.output.iterdir())
            if _NAME.fullmatch(path.name) and path.name != "worst_completed.png"
        }

    def state(self) -> State:
        """Where it is."""
        if ended := self.ended:
            state: State = ended["state"]
            return state
        if self.is_cancelled:
            return "cancelled"
        if self.started_s is None:
            return "open"
        return "running" if (self.folder / "progress.json").exists() else "queued"


class Jobs(Folders[Job]):
    """All jobs of a service.

    Args:
        storage: Folder of the service.
        limits: What is taken.
    """

    def __init__(self, storage: Path, limits: Limits) -> None:
        super().__init__(storage / "jobs", Job, limits.jobs, limits.kept_s)

    def make(
        self, how: How, options: ScanOptions, file_format: CompletionFormat, *, png: bool
    ) -> Job:
        """A new job, without scans.

        Raises:
            Problem: 503, if there are too many.
        """
        told = {
            "how": how._asdict(),
            "options": asdict(options),
            "format": file_format,
            "png": png,
            "made_s": time.time(),
        }
        return self.new(json.dumps(told))

    def queue(self) -> list[Job]:
        """Jobs for which something is to be done, in the order in which they were started."""
        waiting = []
        for job in self.all():
            with suppress(OSError, ValueError):  # it is being removed
                if job.is_waiting:
                    waiting.append((job.started_s or 0.0, job.id, job))
        return [job for *_, job in sorted(waiting, key=lambda each: each[:2])]

    def told(self, job: Job) -> dict[str, Any]:
        """What a client sees of a job."""
        state, ended = job.state(), job.ended
        progress = _json(job.folder / "progress.json")
        num = len(job.names())
        told: dict[str, Any] = {
            "id": job.id,
            "state": state,
            "scans": num,
            "settled": num if state in ("done", "failed") else progress.get("settled", 0),
            "completed": job.completed(),
            "results": list(job.results()),
            "failed": ended.get("failed", {}),
            "notes": ended.get("notes", {}),
            "expires_s": job.changed_s() + self.kept_s,
        }
        if state == "queued":
            told["position"] = [each.id for each in self.queue()].index(job.id) + 1
        return told


def stem_of(name: str) -> str:
    """What a scan is called in files.

    Raises:
        Problem: 422, if it cannot be part of a file's name.
    """
    stem = _SUFFIX.sub("", name)
    if not _NAME.fullmatch(stem) or stem.endswith(COMPLETED):
        raise bad(
            "a name of up to 100 letters, digits, dots, dashes and underscores",
            repr(name[:120]),
            "choose another name",
            "name",
        )
    return stem


def _called(scan: str) -> str:
    return Path(scan).stem


def _move(source: Path, target: Path) -> None:
    with atomic_file(target) as draft:
        shutil.move(source, draft)


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found

"""What a path holds: a store, a model, a run, or files of images."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from stem_complete.config import CHECKPOINTS_FOLDER, CONFIG_FILE
from stem_complete.config.loading import read_yaml
from stem_complete.console import counted
from stem_complete.credentials import put_aside
from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.samples import Samples
from stem_complete.data.formats.scans import read_samples
from stem_complete.data.sampler import evenly_spread
from stem_complete.data.store.layout import VERSION, Source, is_store, to_json
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import DataError, StoreError, TrackingError
from stem_complete.evaluation import contact_sheet, save_png
from stem_complete.inference import MODEL_FOLDER
from stem_complete.inference.card import CARD_FILE, read_card
from stem_complete.storage.claim import last_holder
from stem_complete.storage.paths import is_local, storage_path
from stem_complete.tracking import URI_VARIABLE, database_above, places
from stem_complete.tracking.client import sqlite_file
from stem_complete.tracking.database import follow_move
from stem_complete.tracking.journal import JOURNAL, Journal, Scalars
from stem_complete.tracking.links import kept_place
from stem_complete.training import Checkpoints
from stem_complete.training.ending import Ending, read_ending

_TAIL_BYTES = 2**16


def inspect_path(path: str | Path | UPath) -> dict[str, Any]:
    """Plain values that describe what is at a path or a run's URL, with its kind as `kind`.

    Raises:
        StemCompleteError: There is nothing, or nothing known.
    """
    location = storage_path(path)
    if not is_local(location):
        return _describe_run(location)
    path = Path(str(location))
    if not path.exists():
        raise _nothing(path)
    if is_store(path):
        return _describe_store(path)
    if (path / CARD_FILE).is_file():
        card = read_card(path)
        facts = card.model_dump(mode="json", exclude={"calibration"})
        return {"kind": "model", "path": str(path), **facts, "error_map": bool(card.calibration)}
    if _is_run(path):
        return _describe_run(location)
    if path.is_dir() and (runs := sorted(filter(_is_run, path.iterdir()))):
        raise DataError(
            expected="a store, a model, a run or an image file",
            found=f"a folder of {counted(len(runs), 'run')}",
            where=path,
            fix=f"name one of them, such as {runs[0]}",
        )
    samples = None if path.is_dir() else read_samples(path)
    return _describe_file(path) if samples is None else _describe_samples(path, samples)


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (CHECKPOINTS_FOLDER, CONFIG_FILE, JOURNAL))


def _describe_store(path: Path) -> dict[str, Any]:
    store = MicrographStore(path)
    sources, left_out = store.sources(), store.left_out()
    sizes = store.column("pixel_size_nm")
    known_sizes = sizes[np.isfinite(sizes)]
    kept = [source for source in sources if source.num_crops]
    splits = {split: {s.sha256 for s in kept if s.split == split} for split in store.counts}
    bytes_on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    bytes_of_pixels = len(store) * store.crop_size**2 * np.dtype(store.dtype).itemsize
    return {
        "kind": "store",
        "path": str(path),
        "version": VERSION,
        "fingerprint": store.fingerprint(),
        "num_crops": len(store),
        "crop_size": store.crop_size,
        "dtype": store.dtype,
        "bytes_on_disk": bytes_on_disk,
        "compression": bytes_of_pixels / bytes_on_disk,
        "crops": dict(store.counts),
        "files": {split: len(hashes) for split, hashes in splits.items()},
        "groups": _groups(kept),
        "pixel_size_nm": (
            [float(known_sizes.min()), float(known_sizes.max())] if known_sizes.size else None
        ),
        "num_unknown_pixel_size": int(np.isnan(sizes).sum()),
        # "saturated, 31% of ..." and "saturated, 25% of ..." are one reason.
        "reasons": dict(Counter(record.reason.split(",")[0] for record in left_out)),
        "sources": [json.loads(to_json(source)) for source in sources],
        "left_out": [asdict(record) for record in left_out],
    }


def _groups(sources: list[Source]) -> list[dict[str, Any]]:
    """The fields of view, each with its split and how many files and crops are of it."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.group, []).append(source)
    return [
        {
            "group": group,
            "split": of_group[0].split,
            "files": len({source.sha256 for source in of_group}),
            "crops": sum(source.num_crops for source in of_group),
        }
        for group, of_group in groups.items()
    ]


def _describe_run(path: UPath) -> dict[str, Any]:
    """A run by the metadata of its checkpoints; their weights are not read."""
    checkpoints = Checkpoints(path)
    folders, readable = checkpoints.folders(), checkpoints.readable()
    if not (folders or is_local(path)):
        raise _nothing(path)
    scores = {m["step"]: m["score"] for m in readable.values() if _finite(m["score"]) is not None}
    best = min(scores, key=lambda step: (scores[step], step), default=None)
    entries = [
        {
            "folder": str(folder),
            "step": metadata["step"],
            "score": _finite(metadata["score"]),
            "size_bytes": sum(content["size"] for content in metadata["files"].values()),
            "last": number == 0,
            "best": metadata["step"] == best,
        }
        for number, (folder, metadata) in enumerate(readable.items())
    ]
    model, config_file = path / MODEL_FOLDER, path / CONFIG_FILE
    values: dict[str, Any] = {
        "kind": "run",
        "path": str(path),
        "checkpoints": entries,
        "damaged": [str(folder) for folder in folders if folder not in readable],
        "model": str(model) if (model / CARD_FILE).exists() else None,
        "config_file": str(config_file) if is_local(path) and config_file.exists() else None,
        "metrics": {},
    }
    if readable:
        newest = next(iter(readable.values()))
        values |= {key: newest[key] for key in ("versions", "config", "metrics")}
    elif values["config_file"] is not None:
        values["config"] = put_aside(read_yaml(Path(str(config_file))), keep=False)
    return values | _progress(path, values)


def _progress(path: UPath, values: dict[str, Any]) -> dict[str, Any]:
    """How far a run is, who trains it, and its newest metrics: by checkpoints and journal."""
    done = max((entry["step"] for entry in values["checkpoints"]), default=None)
    training = values.get("config", {}).get("training", {})
    steps = training.get("steps")
    records = _last_records(Path(str(path))) if is_local(path) else []
    metrics = dict(values["metrics"])
    for record in records:
        metrics |= record.values
    step = max((record.step for record in records), default=done)
    holder, lives = last_holder(path)
    state = "running" if lives else "stopped"
    if not lives and done is not None and steps is not None and done >= steps:
        state, step = "finished", done
    ending = read_ending(path) if state == "stopped" else None
    if ending is not None and ending.cause == "patience":
        state, step = "finished", done
    if ending is None and state == "stopped" and holder is not None:
        words = f"{holder} died without a word, as by SIGKILL or for lack of memory"
        ending = Ending("killed", words, None)
    return {
        "state": state,
        "holder": str(holder) if lives else None,
        "ending": None if ending is None else ending._asdict(),
        "step": step,
        "steps": steps,
        "recorded_s": time.time() - records[-1].time / 1000 if records else None,
        "metrics": {name: _finite(value) for name, value in metrics.items()},
        "places": _places(path, values),
    }


def _last_records(path: Path) -> list[Scalars]:
    """What a run recorded last, oldest first."""
    journal = Journal(path / JOURNAL)
    start = max(journal.start, journal.size() - _TAIL_BYTES)
    return [e for some, _ in journal.read(start) for e in some if isinstance(e, Scalars)]


def _places(path: UPath, values: dict[str, Any]) -> dict[str, str]:
    """How to see a run's curves."""
    tracking = values.get("config", {}).get("tracking", {})
    if not tracking.get("enabled"):
        return {}
    kept = kept_place(path)
    uri = tracking["uri"] or os.environ.get(URI_VARIABLE)
    if kept is not None and sqlite_file(kept.uri) is None:
        uri = kept.uri
    if not uri:
        # Not where the config says, as the run may have been moved.
        uri = database_above(Path(str(path))) if is_local(path) else None
        if uri and (file := sqlite_file(uri)):
            with suppress(TrackingError):  # it is held by another process, or read-only
                follow_move(file, busy_s=1.0)
    if not uri:
        return {}
    same_kind = kept is not None and (sqlite_file(kept.uri) is None) == (sqlite_file(uri) is None)
    return places(uri, kept.experiment_id, kept.run_id) if kept and same_kind else places(uri)


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _nothing(path: Path | UPath) -> DataError:
    return DataError(
        expected="a store, a model, a run or an image file",
        found="nothing",
        where=str(path),
        fix="check the path",
    )


def _describe_file(path: Path) -> dict[str, Any]:
    contents = read_file(path)
    images = []
    for micrograph in contents.micrographs:
        pixels = micrograph.pixels
        finite = pixels[np.isfinite(pixels)]
        images.append(
            {
                "signal": micrograph.name,
                "frame": micrograph.frame,
                "shape": list(pixels.shape),
                "dtype": str(pixels.dtype),
                "pixel_size_nm": micrograph.pixel_size_nm,
                "minimum": float(finite.min()) if finite.size else None,
                "maximum": float(finite.max()) if finite.size else None,
                "measured_fraction": float(finite.size / pixels.size),
            }
        )
    return {"kind": "file", "path": str(path), "images": images, "skipped": contents.skipped}


def _describe_samples(path: Path, samples: Samples) -> dict[str, Any]:
    columns = {}
    for name, values in samples.columns.items():
        finite = values[np.isfinite(values)]
        extent = [float(finite.min()), float(finite.max())] if finite.size else None
        columns[name] = {"shape": list(values.shape), "range": extent}
    return {
        "kind": "samples",
        "path": str(path),
        "columns": columns,
        "units": samples.units,
        "facts": {name: str(value) for name, value in samples.metadata.items()},
        "notes": samples.notes,
    }


def draw_store(path: Path, picture: Path, num: int = 32) -> None:
    """Writes a PNG of up to `num` crops of the store at `path`, evenly spread over it.

    Raises:
        StoreError: There is no store, or nothing in it.
    """
    store = MicrographStore(path)
    if not len(store):
        raise StoreError(
            expected="crops to draw", found="none", where=path, fix="ingest micrographs into it"
        )
    crops = evenly_spread(np.arange(len(store)), num)
    labels = [f"{record.split}: {Path(record.source.path).stem}" for record in store.records(crops)]
    save_png(contact_sheet(list(store.read(crops)[:, 0]), labels), picture)

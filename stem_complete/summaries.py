"""What `inspect` tells a reader: a screen on a store, a model, a run or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from shlex import quote
from textwrap import shorten
from typing import Any

import yaml

from stem_complete.config import differences, in_lines
from stem_complete.console import (
    aligned,
    counted,
    format_bytes,
    format_digits,
    format_range,
    format_seconds,
)
from stem_complete.data.examples import SPLITS
from stem_complete.extras import program
from stem_complete.vocabulary import format_coverage

_MOST_LINES = 8
"""Of settings, reasons and images; `--all` has the others."""

_FIELD_LINES = 4
"""Of fields of view."""

_FEWEST_LINES = 2
"""Of settings, where paths and links take the screen."""

_COLUMNS, _ROWS = 80, 22
"""Of a screen, less the lines of the command and of the next prompt."""

_LINE_LENGTH = 64
"""Of settings, which are indented."""

_LONGEST_REASON = 240
"""Characters of why a run ended; `--all` has the others."""

Values = Mapping[str, Any]


def screen(values: Values) -> str:
    """The values of `inspection.inspect_path` for a reader, on a screen of 80 x 24 characters."""
    rows: Callable[[Values], dict[str, object]] = {
        "store": _store, "run": _run, "model": _model, "file": _file,
        "samples": _samples,
    }[values["kind"]]  # fmt: skip
    return aligned({label: text for label, text in rows(values).items() if text is not None})


def everything(values: Values) -> str:
    """All values of `inspection.inspect_path` for a reader, as YAML."""
    text = yaml.safe_dump(
        dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    return str(text).rstrip()


def _store(values: Values) -> dict[str, object]:
    path, crops, side = values["path"], values["crops"], values["crop_size"]
    known = values["pixel_size_nm"]
    unknown = counted(values["num_unknown_pixel_size"], "crop")
    sizes = "unknown"
    if known is not None:
        sizes = f"{format_range(*known)} nm" + (
            f", unknown of {unknown}" if values["num_unknown_pixel_size"] else ""
        )
    reasons = [f"{number:,} {reason}" for reason, number in values["reasons"].items()]
    call = f"{program()} train compact data.store={quote(path)}"
    if not crops["train"]:
        call = f"{program()} ingest IMAGES --store {quote(path)}"
    return {
        "store": path,
        "crops": f"{values['num_crops']:,} of {side} x {side} px, {values['dtype']}: "
        f"{_shares(crops)}",
        "files": f"{sum(values['files'].values()):,}: {_shares(values['files'])}",
        "fields": _fields(values["groups"]),
        "pixel size": sizes,
        "left out": _lines(reasons, "reasons") if reasons else "nothing",
        "on disk": f"{format_bytes(values['bytes_on_disk'])}, "
        f"{format_digits(values['compression'])} times smaller than its pixels",
        "fingerprint": values["fingerprint"][:16],
        "next": call,
        "more": "--all or --json lists files, --contact-sheet FILE.png draws crops",
    }


def _fields(groups: list[Values]) -> str:
    """How many fields of view there are, and those of most files."""
    if not groups:
        return "none"
    splits = ", ".join(
        f"{number:,} {split}"
        for split in SPLITS
        if (number := sum(group["split"] == split for group in groups))
    )
    lines = [
        f"{'/'.join(Path(group['group']).parts[-2:])}: {counted(group['files'], 'file')}, "
        f"{counted(group['crops'], 'crop')}, {group['split']}"
        for group in sorted(groups, key=lambda group: (-group["files"], -group["crops"]))
    ]
    return f"{len(groups):,}: {splits}\n{_lines(lines, 'fields', _FIELD_LINES)}"


def _run(values: Values) -> dict[str, object]:
    path, config = values["path"], values.get("config") or {}
    metrics, checkpoints = values.get("metrics") or {}, values["checkpoints"]
    rows: dict[str, object] = {
        "run": path,
        "state": _state(values),
        "why": _why(values),
        "error": _error(values),
        "training": _training(metrics),
        "micrographs": config.get("data", {}).get("store"),
        "settings": None,
        "checkpoints": _checkpoints(checkpoints),
        "damaged": _lines(values["damaged"], "checkpoints") if values["damaged"] else None,
        "model": _model_of_run(values),
        **values.get("places", {}),
        "next": _next(values),
        "more": "--all or --json has the whole config and all checkpoints",
    }
    if config:
        different = differences(config)
        # What users change most comes first, as the last ones may find no room.
        first = sorted(different, key=lambda key: not key.startswith("training."))
        settings = in_lines({key: different[key] for key in first}, _LINE_LENGTH)
        settings = settings or ["the defaults"]
        # They take what the others leave of the screen.
        room = _ROWS - _height(aligned({k: text for k, text in rows.items() if text is not None}))
        most = min(max(room, _FEWEST_LINES), _MOST_LINES)
        rows["settings"] = _lines(settings, "lines", most)
    return rows


def _height(text: str) -> int:
    """Lines that a text takes on the screen, where longer ones are wrapped."""
    return sum(max(1, ceil(len(line) / _COLUMNS)) for line in text.splitlines())


def _model_of_run(values: Values) -> str:
    model, path = values["model"], values["path"]
    if not model:
        return "none yet"
    inside = model.removeprefix(f"{path.rstrip('/')}/")
    return f"{inside}/ in the run's folder" if inside != model else model


def _state(values: Values) -> str:
    done, steps, state = values["step"], values["steps"], values["state"]
    if values["holder"] is not None:
        state = f"running as {values['holder']}"
    if done is None:
        return f"{state}, no step was recorded"
    of_all = f"step {done:,} of {steps:,} ({100 * done / steps:.3g} %)" if steps else f"step {done}"
    ago = ""
    if values["recorded_s"] is not None and state != "finished":
        ago = f", recorded {format_seconds(values['recorded_s'])} ago"
    return f"{state}: {of_all}{ago}"


def _why(values: Values) -> str | None:
    """Why a run ended early."""
    ending = values["ending"]
    return ending and shorten(ending["words"], _LONGEST_REASON, placeholder=" ... --all")


def _error(values: Values) -> str | None:
    """Validation errors: the last, and the best with its checkpoint."""
    scored = [entry for entry in values["checkpoints"] if entry["score"] is not None]
    if not scored:
        return None
    best = next(entry for entry in scored if entry["best"])
    last = scored[0]
    text = f"validation RMSE {_percent(best['score'])} of the range at step {best['step']:,}"
    if last is best:
        return f"{text}, the last and best"
    return f"{text}, the best; {_percent(last['score'])} at step {last['step']:,}"


def _training(metrics: Values) -> str | None:
    loss = metrics.get("train/outer_loss")
    if loss is None:
        return None
    parts = [f"loss {format_digits(loss)}"]
    if (threshold := metrics.get("train/outer_threshold")) is not None:
        clipped = metrics.get("train/outer_clip_fraction") or 0.0
        parts.append(f"threshold {format_digits(threshold)}, {_percent(clipped)} clipped")
    if (rate := metrics.get("train/examples_per_s")) is not None:
        parts.append(f"{format_digits(rate)} examples/s")
    return ", ".join(parts)


def _checkpoints(entries: list[Values]) -> str:
    if not entries:
        return "none"
    steps = ", ".join(
        f"{entry['step']:,}{' (best)' if entry['best'] else ''}" for entry in entries[:_MOST_LINES]
    )
    more = f" and {len(entries) - _MOST_LINES} more" if len(entries) > _MOST_LINES else ""
    size = format_bytes(max(entry["size_bytes"] for entry in entries))
    return f"{len(entries)} of {size} each, of step {steps}{more}"


def _next(values: Values) -> str:
    if values["state"] == "finished" or (values["model"] and values["state"] != "running"):
        model = quote(values["path"])
        return f"{program()} complete SCANS --model {model} --output FOLDER"
    if values["state"] == "running":
        return "wait, or stop it by Ctrl-C or SIGTERM: it writes a checkpoint and can go on"
    ending = values["ending"] or {}
    lower = ""
    if ending.get("cause") == "diverged" and ending["learning_rate"]:
        lower = f"optimizer.learning_rate={ending['learning_rate'] / 2:g}"
    if values["config_file"] is None:
        command = f"by its train command{' with ' * bool(lower)}{lower}"
        return f"start it again {command}: it goes on from the last checkpoint"
    return f"{program()} train {quote(values['config_file'])} {lower}".rstrip()


def _model(values: Values) -> dict[str, object]:
    metrics, sources = values["metrics"], values["training_data"]
    steps, rmse = metrics.get("train/steps"), metrics.get("validation/rmse")
    trained = "" if steps is None else counted(round(steps), "step")
    if rmse is not None:
        trained += f"{', ' * bool(trained)}validation RMSE {_percent(rmse)} of the range"
    coverages = sorted({values["coverage"], *values["more_coverages"]}, reverse=True)
    shown = " to ".join(map(format_coverage, dict.fromkeys((coverages[0], coverages[-1]))))
    licences = sorted({source["licence"] or "unknown" for source in sources})
    crops = sum(source["num_crops"] for source in sources)
    return {
        "model": values["path"],
        "name": f"{values['name']}, recipe {values['recipe']}, encoding {values['encoding']}",
        "trained": trained or "unknown",
        "scans": f"of coverage {shown}",
        "micrographs": f"{counted(crops, 'crop')} of {counted(len(sources), 'image')}, licence: "
        f"{', '.join(licences) or 'unknown'}",
        "error map": "calibrated" if values["error_map"] else "none",
        "made by": ", ".join(f"{name} {version}" for name, version in values["versions"].items()),
        "weights": values["weights_sha256"][:16],
        "next": f"{program()} complete SCANS --model {quote(values['path'])} --output FOLDER",
        "more": "--all or --json has architecture, metrics, files and config",
    }


def _file(values: Values) -> dict[str, object]:
    images = values["images"]
    has_gaps = any(image["measured_fraction"] < 1 for image in images)
    path = quote(values["path"])
    rows: dict[str, object] = {
        "file": values["path"],
        "images": _lines([_image(image) for image in images], "images") if images else "none",
        "skipped": _lines(values["skipped"], "parts") if values["skipped"] else None,
    }
    if images and not has_gaps:
        rows["a micrograph"] = f"{program()} ingest {path} --store STORE"
    if images:
        dwell = "" if has_gaps else " --dwell DWELL_MAP"
        rows["a partial scan"] = f"{program()} complete {path}{dwell} --output FOLDER"
    return rows


def _samples(values: Values) -> dict[str, object]:
    columns, units, path = values["columns"], values["units"], quote(values["path"])
    lines = [
        f"{name}{f' [{units[name]}]' if name in units else ''}: "
        + ("no number" if column["range"] is None else format_range(*column["range"]))
        + (f", of {column['shape'][0]} scans" if len(column["shape"]) > 1 else "")
        for name, column in columns.items()
    ]
    facts = [f"{name}: {value}" for name, value in values["facts"].items()]
    return {
        "file": values["path"],
        "samples": f"{max((each['shape'][-1] for each in columns.values()), default=0):,}",
        "columns": _lines(lines, "columns"),
        "says": _lines(facts, "facts") if facts else None,
        "note": _lines(values["notes"], "notes") if values["notes"] else None,
        "a partial scan": f"{program()} complete {path} --output FOLDER",
        "a path alone": f"{program()} complete INTENSITIES --path {path} --output FOLDER",
    }


def _image(image: Values) -> str:
    height, width = image["shape"]
    size = image["pixel_size_nm"]
    parts = [
        f"{height} x {width} px, {image['dtype']}",
        "pixel size unknown" if size is None else f"{format_digits(size)} nm per pixel",
    ]
    if image["minimum"] is not None:
        parts.append(f"values {format_range(image['minimum'], image['maximum'])}")
    if image["measured_fraction"] < 1:
        parts.append(f"{_percent(image['measured_fraction'])} of the pixels measured")
    name = " ".join((image["signal"], f"frame {image['frame']}" if image["frame"] else "")).strip()
    return f"{name}: {', '.join(parts)}" if name else ", ".join(parts)


def _lines(lines: list[str], what: str, most: int = _MOST_LINES) -> str:
    """The first lines of many, below one another."""
    hidden = len(lines) - most
    if hidden <= 0:
        return "\n".join(lines)
    return "\n".join((*lines[: most - 1], f"and {hidden + 1} {what} more: --all"))


def _shares(numbers: Values) -> str:
    return ", ".join(f"{number:,} {split}" for split, number in numbers.items())


def _percent(fraction: float) -> str:
    return f"{format_digits(100 * fraction)} %"

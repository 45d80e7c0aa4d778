"""What the nodes of a run measured, on its way to the worker that sends it to MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from upath import UPath

from stem_complete.tracking.journal import Entry

SAMPLES = "system_metrics"
"""Name of the folder of samples in a run's folder."""

_FILES_PER_READ = 256

_log = logging.getLogger(__name__)


class Samples:
    """A folder of small files, one a sample, that all nodes of a run see.

    Each node adds files; one reader removes them when MLflow has them. So only one worker speaks to
    MLflow, and nothing is lost with a node, nor while the server is down.
    """

    def __init__(self, folder: Path | UPath) -> None:
        self._folder = UPath(folder)
        self._taken: set[str] = set()
        self._warned = False

    def add(self, node: str, time_ms: int, values: Mapping[str, float]) -> None:
        """Adds a sample of a node, by its name; raises what the file system or store raises."""
        self._folder.mkdir(parents=True, exist_ok=True)
        sample = json.dumps({"time": time_ms, "values": dict(values)})
        (self._folder / f"{time_ms}-{node}.json").write_text(sample)

    def read(self) -> dict[str, Entry]:
        """Some samples that were not removed yet, the oldest first, by name."""
        try:
            fs, path = self._folder.fs, self._folder.path
            fs.invalidate_cache(path)
            files = {file.rsplit("/", 1)[-1]: file for file in fs.ls(path, detail=False)}
            names = sorted(files.keys() - self._taken)[:_FILES_PER_READ]
            contents = fs.cat_ranges([files[name] for name in names], None, None)
        except FileNotFoundError:  # no sample yet
            return {}
        except Exception as error:  # of any store's client
            self._warn(error)
            return {}
        return {
            name: entry
            for name, content in zip(names, contents, strict=True)
            if (entry := _entry(content)) is not None
        }

    def remove(self, names: Collection[str]) -> None:
        """Removes samples that are read."""
        for name in names:
            try:
                (self._folder / name).unlink()
            except FileNotFoundError:
                pass
            except Exception as error:  # of any store's client
                self._warn(error)
                self._taken.add(name)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("system metrics in %s: %s", self._folder, error)


def _entry(content: bytes | Exception) -> Entry | None:
    """A sample; None if it is being written."""
    try:
        entry = json.loads(content)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None

"""Completions as zarr v3 arrays: one shard of many scans is one unit, written as a whole.

<destination>/                  group; attributes: format, version, model, options
    512x512/                    group for the scans of one shape
        completion [n, h, w]    float32, in the units of each scan; NaN where there is none
        error      [n, h, w]    expected RMS error of each pixel, if it is asked for
        self_check [n, 8]       see the attribute `columns`; NaN where there is none
        pixel_size_nm [n]       NaN where unknown
        about [n]               JSON of title, intensity unit and acquisition metadata of the source
        scan, made_from [n]     place of each scan, and JSON of the hashes that it follows from

A chunk is one scan. What is added gets rows behind those that are there; a row that is there stays
that of its scan. Several processes that write into one shard would lose each other's chunks, so a
shard is encoded in memory by one and put in its place under its name.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from stem_complete.data.about import plain
from stem_complete.data.formats.scan_arrays import remote_store
from stem_complete.errors import (
    ConfigError,
    DataError,
    Failure,
    StemCompleteError,
)
from stem_complete.inference.card import ModelCard
from stem_complete.inference.completer import CompletedScan
from stem_complete.inference.image_files import Outputs, described
from stem_complete.inference.scan_files import ARRAYS
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.sources import called
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.rows import Rows, Shape, group_of
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import MOST_SCANS, MadeFrom, ScanResult, Unit, before
from stem_complete.storage.manifest import Record
from stem_complete.storage.paths import (
    FileContent,
    clear_errors,
    is_local,
    list_folder,
    remove,
    storage_path,
    write_atomically,
)

VERSION = 1
_UNSET = "not given"
SELF_CHECK = SelfCheck._fields

_SHARD_BYTES = 32 * 2**20
_COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")

Arrays = dict[str, NDArray[Any]]


class CompletionArrays(NamedTuple):
    """A zarr group of completions.

    Attributes:
        folder: Path or URL.
        outputs: What is written of a scan; there are no previews.
        most_scans: In a shard; fewer of large ones, so that it takes 32 MiB before compression.
    """

    folder: str
    outputs: Outputs
    most_scans: int = MOST_SCANS

    def prepare(self, card: ModelCard, options: str, told: Mapping[str, Any]) -> None:
        """Makes the group, or checks that it is of this model and these options.

        Args:
            card: The model.
            options: Hash of the options.
            told: The options that were given, by name.

        Raises:
            ConfigError: It is of others.
            DataError: Something else is there.
            StorageError: It cannot be written.
        """
        path = storage_path(self.folder)
        own = {
            "format": ARRAYS,
            "version": VERSION,
            "model": called(card),
            "model_sha256": card.weights_sha256,
            "options": options,
            "options_told": plain(
                {
                    **told,
                    # By name, as other versions told others.
                    "self_check": list(SELF_CHECK) if self.outputs.self_check else [],
                    "keep_measured": self.outputs.keep_measured,
                    "error_map": self.outputs.error_map,
                    "shard": self.most_scans,
                }
            ),
        }
        with clear_errors(path):
            there = [each for each in list_folder(path) if each.name[0] != "."]
            if not there:
                self._begin(own)
                return
            try:
                attributes = dict(self._open().attrs.asdict())
            except (ValueError, FileNotFoundError):  # no group, or none at all
                attributes = {}
            if attributes.get("format") != ARRAYS:
                raise DataError(
                    expected="completions by this program, or nothing",
                    found="something else",
                    where=self.folder,
                    fix="choose another output",
                )
            if self.outputs.overwrite:
                for each in there:
                    remove(each)
                self._begin(own)
                return
        what = ""
        if attributes.get("model_sha256") != own["model_sha256"]:
            what = "model"
            asked, there_is = (
                f"{each.get('model')}, {str(each.get('model_sha256'))[:12]}"
                for each in (own, attributes)
            )
        elif attributes.get("options_told") != own["options_told"]:
            what = "options"
            asked, there_is = _differences(own["options_told"], attributes.get("options_told"))
        if what:
            raise ConfigError(
                expected=f"completions with the same {what} ({asked})",
                found=f"those with {there_is}",
                where=self.folder,
                fix="choose another output, or add --overwrite to do all of them again",
            )

    def units(
        self,
        sources: Sequence[Source],
        records: Mapping[str, Record],
        reader: Reader,
        failed: dict[str, Failure],
    ) -> list[Unit]:
        """Shards of the scans, and room for them in the arrays.

        Rows that are taken stay so. The others are filled in the order of the list, so that a
        batch that was interrupted goes on with the rows that it would have had.

        Args:
            sources: All scans, in order.
            records: What the manifest says.
            reader: For stamps and shapes, and the content of scans that may have moved.
            failed: Takes the scans that cannot be read, by name.

        Raises:
            StorageError: The arrays cannot be written.
        """
        rows = Rows(records, self.size)
        for source in sources:
            try:
                rows.keep_known(source, reader)
            except (StemCompleteError, OSError) as error:
                failed[str(source)] = reader.failure(error)
        rows.keep_moved(reader)
        rows.place_new()
        self._make_room({shape: max(taken) + 1 for shape, taken in rows.taken.items() if taken})
        return rows.units(records)

    def why_again(self, unit: Unit, place: int, made_from: MadeFrom) -> str | None:
        """See `Destination`. Rows of a shard that is not as the manifest says are done again."""
        old: MadeFrom | None = before(unit, place).get("made_from")
        if old is None:  # it failed, or is new
            return ""
        names = dict.fromkeys((*made_from, *old))
        if changed := [name for name in names if old.get(name) != made_from.get(name)]:
            return f"done again, as its {' and '.join(changed)} changed"
        if self._decoded(unit) is None:
            return "done again, as its completion changed"
        return None

    def write(
        self,
        unit: Unit,
        completed: Mapping[int, Sequence[CompletedScan]],
        results: Sequence[ScanResult],
    ) -> dict[str, FileContent]:
        """See `Destination`."""
        assert unit.shape is not None
        kept = {row for row, r in zip(unit.rows, results, strict=True) if r.state == "kept"}
        there = unit.before or {"scans": [], "files": {}}
        if not completed and kept == {s["row"] for s in there["scans"] if "failed" not in s}:
            return {name: FileContent(*content) for name, content in there["files"].items()}
        arrays = self._empty(unit.shape)
        if kept:
            old = self._decoded(unit)
            assert old is not None, "why_again has looked"
            for name, values in arrays.items():
                values[sorted(kept)] = old[name][sorted(kept)]
        for place, (one,) in completed.items():
            _fill(arrays, unit.rows[place], one, unit.scans[place], results[place])
        folder = storage_path(self.folder)
        written = {}
        with clear_errors(folder):
            for name, content in self._encoded(unit, arrays).items():
                write_atomically(folder / name, content)
                written[name] = FileContent(len(content), hashlib.sha256(content).hexdigest())
            for name in there["files"].keys() - written.keys():
                remove(folder / name)
        return written

    def image(self, unit: Unit, place: int) -> NDArray[np.float32]:
        """See `Destination`."""
        group, _, shard = unit.name.partition("/")
        assert unit.shape is not None
        row = int(shard) * self.size(unit.shape) + unit.rows[place]
        image: NDArray[np.float32] = np.asarray(self._open()[group]["completion"][row])
        return image

    def wanted(self, unit: Unit) -> list[str]:
        """Names of all files that a unit is to have: those that it has, as empty ones have none."""
        return list((unit.before or {}).get("files", {}))

    def _begin(self, attributes: dict[str, Any]) -> None:
        """Writes an empty group, and leaves what is hidden in its folder."""
        self._open("a").attrs.put(attributes)

    def _open(self, mode: Literal["r", "a"] = "r") -> Any:
        path = storage_path(self.folder)
        store: Any = str(path) if is_local(path) else remote_store(path.fs, path.path)
        # What was consolidated may be older than the arrays, after a kill.
        return zarr.open_group(store, mode=mode, use_consolidated=False)

    def _make_room(self, num_rows: Mapping[Shape, int]) -> None:
        """Creates or enlarges arrays for so many scans of each shape."""
        folder = storage_path(self.folder)
        with clear_errors(folder):
            root = self._open("a")
            for shape, num in num_rows.items():
                group = root.require_group(group_of(shape))
                for name in self.layout(shape):
                    if name not in group:
                        self.create(group, name, shape, num)
                    elif (array := group[name]).shape[0] < num:
                        array.resize((num, *array.shape[1:]))
            # Readers then need not list the folder, where the manifest lies, too.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(root.store)

    def size(self, shape: Shape) -> int:
        """Number of scans of a shape in a shard."""
        return max(1, min(self.most_scans, _SHARD_BYTES // (4 * shape[0] * shape[1])))

    def _empty(self, shape: Shape) -> Arrays:
        """Arrays of one shard without scans."""
        size = self.size(shape)
        return {
            name: np.full(
                (size, *each.shape), each.fill, object if each.dtype == "str" else each.dtype
            )
            for name, each in self.layout(shape).items()
        }

    def _encoded(self, unit: Unit, arrays: Arrays) -> dict[str, bytes]:
        """Files of a shard by their names below the destination."""
        assert unit.shape is not None
        group, _, shard = unit.name.partition("/")
        encoded: dict[str, bytes] = {}
        for name, values in arrays.items():
            store: dict[str, Any] = {}
            root: Any = zarr.create_group(MemoryStore(store))
            self.create(root, name, unit.shape, len(values))
            root[name][:] = values
            first = f"{name}/c/0"
            encoded |= {
                f"{group}/{name}/c/{shard}{key.removeprefix(first)}": content.to_bytes()
                for key, content in store.items()
                if key.startswith(first)
            }
        return encoded

    def _decoded(self, unit: Unit) -> Arrays | None:
        """What a shard holds; None if it is not as the manifest says."""
        assert unit.before is not None
        assert unit.shape is not None
        files = tuple((name, sha256) for name, (_, sha256) in unit.before["files"].items())
        return _decode(self, unit.name, unit.shape, files)

    def layout(self, shape: Shape) -> dict[str, _Layout]:
        """The arrays for scans of a shape."""
        image = _Layout(shape, "float32", np.nan, ("scan", "y", "x"))
        return {
            "completion": image,
            **({"error": image} if self.outputs.error_map else {}),
            "self_check": _Layout((len(SELF_CHECK),), "float64", np.nan, ("scan", "column")),
            "pixel_size_nm": _Layout((), "float64", np.nan, ("scan",)),
            "about": _Layout((), "str", "", ("scan",)),
            "scan": _Layout((), "str", "", ("scan",)),
            "made_from": _Layout((), "str", "", ("scan",)),
        }

    def create(self, group: Any, name: str, shape: Shape, num_scans: int) -> None:
        """Creates one of the arrays."""
        layout, size = self.layout(shape)[name], self.size(shape)
        is_image = len(layout.shape) == 2
        group.create_array(
            name,
            shape=(num_scans, *layout.shape),
            dtype=layout.dtype,
            chunks=(1 if is_image else size, *layout.shape),
            shards=(size, *layout.shape) if is_image else None,
            compressors=[_COMPRESSION, Crc32cCodec()] if is_image else "auto",
            fill_value=layout.fill,
            dimension_names=layout.names,
            attributes={"columns": SELF_CHECK} if name == "self_check" else {},
        )


def _differences(asked: Mapping[str, Any], found: Any) -> tuple[str, str]:
    """Options that differ, as those that were asked for and as those that were found."""
    if not isinstance(found, dict):  # a development version told them as text, or nothing did
        return ", ".join(f"{name}={value}" for name, value in asked.items()), str(found)
    names = {**asked, **found}
    differ = [name for name in names if asked.get(name, _UNSET) != found.get(name, _UNSET)]
    own, other = (
        ", ".join(f"{name}={each.get(name, _UNSET)}" for name in differ) for each in (asked, found)
    )
    return own, other


class _Layout(NamedTuple):
    """An array of completions, for one scan."""

    shape: tuple[int, ...]
    dtype: str
    fill: Any
    names: tuple[str, ...]


def _fill(arrays: Arrays, row: int, one: CompletedScan, source: Source, result: ScanResult) -> None:
    arrays["completion"][row] = one.completion.image
    if "error" in arrays:
        arrays["error"][row] = one.completion.error
    if one.check is not None:
        told = one.check._asdict()
        values = [np.nan if told[name] is None else told[name] for name in SELF_CHECK]
        arrays["self_check"][row] = values
    arrays["pixel_size_nm"][row] = one.scan.pixel_size_nm or np.nan
    arrays["about"][row] = json.dumps(described(one.scan))
    arrays["scan"][row] = source.key
    arrays["made_from"][row] = json.dumps(result.made_from)


@lru_cache(1)  # each scan of a unit asks for it
def _decode(
    destination: CompletionArrays, name: str, shape: Shape, files: tuple[tuple[str, str], ...]
) -> Arrays | None:
    folder = storage_path(destination.folder)
    group, _, shard = name.partition("/")
    contents: dict[str, bytes] = {}
    for file, sha256 in files:
        try:
            content = (folder / file).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        contents[file] = content
    arrays = {}
    for each in destination.layout(shape):
        store: dict[str, Any] = {}
        root: Any = zarr.create_group(MemoryStore(store))
        destination.create(root, each, shape, destination.size(shape))
        here = f"{group}/{each}/c/{shard}"
        for file, content in contents.items():
            if file == here or file.startswith(f"{here}/"):
                key = f"{each}/c/0{file.removeprefix(here)}"
                store[key] = default_buffer_prototype().buffer.from_bytes(content)
        arrays[each] = np.asarray(root[each][:])
    return arrays

"""Files of scans, their dwell maps and their completed images, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, cast

from stem_complete.data.formats.freescan import coordinates_of
from stem_complete.data.formats.ome_zarr import is_zarr
from stem_complete.data.formats.ome_zarr_writer import OWN
from stem_complete.data.formats.readers import has_reader
from stem_complete.data.formats.scans import PATHS, TABLES
from stem_complete.data.formats.search import Found, search
from stem_complete.errors import ConfigError, DataError, Failure
from stem_complete.inference.image_files import COMPLETED, ERROR, NPY

_IMAGES = (".tif", ".tiff", NPY)
ARRAYS = "stem-complete completions"
"""Format of a zarr group of completions, as its attributes say."""

_ZARR = (".zarr", ".zspy")
_OUTPUT = re.compile(rf"({COMPLETED}|{ERROR})\.(?i:tiff?|png|npy|json|hspy|ome\.zarr)$")


class ScanFiles(NamedTuple):
    """Files of a scan to complete; each a `UPath` if it lies on an object store.

    Attributes:
        scan: Its intensities.
        dwell: Its dwell map, or None.
        along: Its path, or None.
        image: Completed image to write.
    """

    scan: Path
    dwell: Path | None
    along: Path | None
    image: Path


class Plan(NamedTuple):
    """Scans to complete, and sources without scans by name."""

    files: list[ScanFiles]
    failed: dict[str, Failure]


def plan_files(
    scans: Sequence[str | Path],
    output: Path,
    dwell: str | Path | None = None,
    along: str | Path | None = None,
) -> Plan:
    """The scans among files, folders and globs, each with its dwell map and its output.

    All of them may be URLs such as `s3://bucket/scans`. The completion of `<name>.<suffix>` is
    `<output>/<name>_completed.tif`, in the subfolder that the scan has in the folder that was
    searched. If there is one scan, `output` may be a `.tif` or `.npy`.

    Dwell maps, and the paths that scans were taken `along`, are found by one of four rules:

    - None: the scans say themselves what was measured.
    - A file: the dwell map of all scans, which then share one path of the probe.
    - A folder: the map of a scan is the file of the same name in it, of any supported suffix.
    - A pattern with `{name}`, the scan's name without suffix, or `{number}`, the last number in
      it: `partial_scan-1.tif` goes with `mask-{number}.tif`. A pattern without folder is looked
      for beside the scan.

    Dwell maps, paths and completed images in folders and globs are not taken for scans, and the
    files of a FreeScan count as one, by its coordinates.

    Raises:
        ConfigError: `dwell`, `along` or `output` cannot be used.
        DataError: There is no scan at all.
        StorageError: An object store cannot be read.
    """
    dwell_of, path_of = _rule("dwell map", dwell), _rule("path", along)
    found, failed = _find(scans)
    candidates = [(scan, root, (dwell_of(scan), path_of(scan))) for scan, root in found]
    others = {path.resolve() for _, _, paths in candidates for path in paths if path is not None}
    pairs = [c for c in candidates if c[0].resolve() not in others]
    if not pairs and not failed:
        raise DataError(
            expected="partial scans",
            found="only dwell maps or paths" if candidates else "only completed images",
            where=" ".join(map(str, scans)),
            fix="give the scans' own files or folder",
        )
    if output.suffix.lower() in _IMAGES:
        if len(pairs) + len(failed) != 1:
            raise ConfigError(
                expected="a folder for the output of several scans",
                found=f"one file for {len(pairs) + len(failed)} scans",
                where=output,
                fix="give a folder",
            )
        return Plan([ScanFiles(scan, *paths, output) for scan, _, paths in pairs], failed)
    files = []
    for scan, root, paths in pairs:
        folder = output.joinpath(*scan.parent.relative_to(root).parts)
        image = folder / f"{scan.stem}{COMPLETED}.tif"
        files.append(ScanFiles(scan, *paths, image))
    return Plan(files, failed)


def _find(scans: Iterable[str | Path]) -> tuple[list[tuple[Path, Path]], dict[str, Failure]]:
    """Each scan's (file, searched folder), and sources without scans."""
    found: dict[Path, Path] = {}
    failed: dict[str, Failure] = {}
    for source in scans:
        root = _root(source)
        files, bad = _search_url(str(source)) if is_url(source) else search([source], TABLES)
        failed |= {name: error.failure for name, error in bad.items()}
        for file in files:
            scan = None if is_url(source) else coordinates_of(file)
            is_part = scan is not None and scan != file and scan in files
            if root is None or not (is_part or _is_output(file)):
                found.setdefault(file, root or file.parent)
    return list(found.items()), failed


def _is_output(file: Path) -> bool:
    """Whether it is a completed image, or arrays of them, by its name or what it says."""
    if _OUTPUT.search(file.name):
        return True
    if file.suffix not in _ZARR or is_url(file):
        return False
    try:
        attributes = json.loads((file / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(attributes.get("format") == ARRAYS or OWN in attributes)


def is_url(source: object) -> bool:
    """Whether it is no local path, but a URL such as s3://bucket/scans."""
    return "://" in str(source)


def place(source: str | Path) -> Path:
    """A local path as it is, or what has the methods of one for a URL.

    Raises:
        StorageError: It is a URL of an unknown kind, or the package for its kind is missing.
    """
    if not is_url(source):
        return Path(source)
    from stem_complete.storage.paths import storage_path  # slow to import

    return cast("Path", storage_path(source))


def _search_url(source: str) -> Found:
    """As `search`, at a URL."""
    from stem_complete.storage.paths import clear_errors

    path: Any = place(source)
    with clear_errors(source):
        if has_magic(path.path):
            names = path.fs.glob(path.path)
        elif path.suffix in _ZARR or path.fs.isfile(path.path):
            names = [path.path]
        else:
            names = path.fs.find(path.path)
    searched = path.path.strip("/").split("/")
    depth = len(list(takewhile(lambda part: not has_magic(part), searched)))
    files: dict[str, None] = {}
    for name in sorted(names):
        parts = name.strip("/").split("/")
        # A zarr hierarchy counts as one file.
        end = next((i for i, part in enumerate(parts) if part.endswith(_ZARR)), len(parts))
        parts = parts[: end + 1]
        hidden = any(part.startswith(".") for part in parts[depth:])
        if not hidden and has_reader(Path(parts[-1]), TABLES):
            files["/".join(parts)] = None
    error = DataError(
        expected="files of a supported format", found="none", where=source, fix="check the URL"
    )
    found = [place(path.fs.unstrip_protocol(name)) for name in files]
    return Found(found, {} if found else {source: error})


def _root(source: str | Path) -> Path | None:
    """The folder that a folder or glob is searched from; None for a file, or what counts as one."""
    path = place(source)
    if path.suffix in _ZARR or (not is_url(source) and is_zarr(path)):
        return None
    if path.is_dir():
        return path
    if path.exists() or not has_magic(str(source)):
        return None
    parts = str(source).split("/") if is_url(source) else path.parts
    plain = takewhile(lambda part: not has_magic(part), parts)
    return place("/".join(plain)) if is_url(source) else Path(*plain)


def _rule(what: str, source: str | Path | None) -> Callable[[Path], Path | None]:
    """What finds the dwell map or path of a scan, which may not exist; see `plan_files`."""
    if source is None:
        return lambda _: None
    pattern, path = str(source), place(source)
    if "{name}" in pattern or "{number}" in pattern:

        def from_name(scan: Path) -> Path:
            *_, number = ["", *re.findall(r"\d+", scan.stem)]
            name = pattern.replace("{name}", scan.stem).replace("{number}", number)
            return scan.parent / name if Path(name).name == name else place(name)

        return from_name
    if path.is_dir():
        files = (file for file in sorted(path.iterdir()) if file.suffix.lower() in PATHS)
        by_name = {file.stem: file for file in files}
        return lambda scan: by_name.get(scan.stem, path / scan.name)
    if not path.exists():
        raise ConfigError(
            expected=f"a {what}, a folder of them, or a pattern with {{name}} or {{number}}",
            found="no such file or folder",
            where=source,
            fix="check the path",
        )
    return lambda _: path

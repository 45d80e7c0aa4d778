"""Where completions go, by the name and the format of an output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stem_complete.data.formats.hspy_writer import HSPY
from stem_complete.data.formats.ome_zarr_writer import OME_ZARR
from stem_complete.errors import ConfigError
from stem_complete.extras import require
from stem_complete.inference.image_files import Outputs
from stem_complete.inference.scan_files import is_url
from stem_complete.serving.batch.files import SUFFIXES, CompletedFiles
from stem_complete.serving.batch.units import MOST_SCANS
from stem_complete.vocabulary import CompletionFormat

if TYPE_CHECKING:
    from stem_complete.serving.batch.shards import CompletionArrays


def destination_for(
    output: str,
    file_format: CompletionFormat | None,
    outputs: Outputs,
    scans_in_shard: int = MOST_SCANS,
) -> CompletedFiles | CompletionArrays:
    """Where completions go, by the name and the format of an output.

    Raises:
        ConfigError: Name, format and outputs do not go together.
        MissingPackageError: The package that writes the format is not installed.
    """
    suffix = OME_ZARR if output.lower().endswith(OME_ZARR) else Path(output).suffix.lower()
    named: dict[str, CompletionFormat] = {
        ".tif": "tiff", ".tiff": "tiff", ".npy": "npy", ".zarr": "zarr",
        OME_ZARR: "ome-zarr", HSPY: "hspy",
    }  # fmt: skip
    by_name = named.get(suffix)
    if file_format is not None and by_name not in (None, file_format):
        raise ConfigError(
            expected=f"an output whose name goes with {file_format}",
            found=suffix,
            where=output,
            fix="give another name or another --format",
        )
    chosen = file_format or by_name or "tiff"
    check_is_kept(output)
    if chosen == "zarr":
        if outputs.png:
            raise ConfigError(
                expected="previews of images, each in its file",
                found="zarr",
                where="--png",
                fix="leave it out",
            )
        from stem_complete.serving.batch.shards import CompletionArrays  # and with it zarr

        return CompletionArrays(output, outputs, scans_in_shard)
    if chosen == "hspy":
        require("rsciio", purpose="writing HyperSpy's signals")
    if by_name is None:
        return CompletedFiles(output, SUFFIXES[chosen], outputs)
    folder, _, name = output.rpartition("/")
    return CompletedFiles(folder or ".", suffix, outputs, name)


def check_is_kept(output: str) -> None:
    """Checks that an output outlives the job that writes it, if this process is one of Ray's jobs.

    Raises:
        ConfigError: It would be in the job's own folder.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not (
        is_url(output) or Path(output).is_absolute()
    ):
        raise ConfigError(
            expected="an absolute path or a URL for the output in a submitted job",
            found=output,
            where="--output",
            fix="give a folder that all nodes see: the job's own is thrown away",
        )

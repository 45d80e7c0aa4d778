"""Partial scans in, completed images out: arrays in the detector's own units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError
from stem_complete.inference.artifact import Artifact
from stem_complete.inference.card import ModelCard
from stem_complete.inference.held_out import check_blocks, check_pixels
from stem_complete.inference.labelled import as_raster, like
from stem_complete.inference.measured_pixels import blend_measured, noise_of_measurements
from stem_complete.inference.predictor import Predictor
from stem_complete.inference.scaled_scans import ScaledScans, scaled
from stem_complete.inference.self_check import NOT_CHECKED, SelfCheck
from stem_complete.inference.sources import load_model
from stem_complete.scan import CORRECTED

TILE_PX, OVERLAP_PX = 2048, 256
MIN_SIDE_PX = 32


class Completion(NamedTuple):
    """A completed scan.

    Both are arrays, or what the scan was: xarray's `DataArray` with its coordinates and attributes,
    or HyperSpy's signal with its axes and metadata.

    Attributes:
        image: [h, w] float32, in the units of the scan.
        error: Expected root mean square error of each pixel, of the same shape and units; NaN if
            the model was never calibrated, None if it was not asked for. It says how wrong such
            pixels were in validation scans, compared with the blurred micrographs that the network
            is trained to return.
    """

    image: NDArray[np.float32]
    error: NDArray[np.float32] | None = None


class CompletedScan(NamedTuple):
    """A scan with its completion.

    Attributes:
        scan: What was measured.
        completion: What the model makes of it.
        model: Card of the model.
        check: How well it predicts held-out parts of the scan; None if it was not asked for.
    """

    scan: RasterScan
    completion: Completion
    model: ModelCard
    check: SelfCheck | None = None


class Completer:
    """Completes partial scans with a model. Threads may share it.

    Args:
        artifact: The model.
        device: Device it runs on, such as "cpu" or "cuda"; None takes a GPU if torch finds one.
        precision: "float32"; or "bf16", in which convolutions take half the time where the device
            has instructions for it, and completions differ by some percent of their contrast.
        tile_px: Larger images are completed in tiles of this side.
        overlap_px: Overlap of neighbouring tiles.

    Raises:
        ConfigError: The device is not there, or there is no such precision.
        ValueError: The tiles do not fit the network.

    Example:
        >>> completer = load_completer("runs/compact/model")      # doctest: +SKIP
        >>> image, error = completer.complete(partial, dwell)     # doctest: +SKIP
    """

    def __init__(
        self,
        artifact: Artifact,
        device: str | torch.device | None = None,
        *,
        precision: str = "float32",
        tile_px: int = TILE_PX,
        overlap_px: int = OVERLAP_PX,
    ) -> None:
        self.card: ModelCard = artifact.card
        self.tile_px, self.overlap_px, self.precision = tile_px, overlap_px, precision
        self._predictor = Predictor(artifact, device, precision, tile_px, overlap_px)
        self.device = self._predictor.device

    def complete(
        self,
        partial: ArrayLike | PathScan | RasterScan,
        dwell: ArrayLike | None = None,
        *,
        intensity_range: tuple[float, float] | None = None,
        error_map: bool = True,
        check: SelfCheck | None = None,
        keep_measured: bool = False,
    ) -> Completion:
        """Completion of one partial scan.

        Args:
            partial: Measured intensities [h, w], each the mean over the dwell in its pixel, of any
                gain and offset; NaN where not measured. Sides of at least 32 px. An array, xarray's
                `DataArray` of any two dimensions, or HyperSpy's `Signal2D`; or a scan that has its
                dwell times.
            dwell: Time spent in each pixel [h, w], in units of a full pixel dwell, 0 where not
                measured. None: 1 in each measured pixel; a constant that fills the gaps of a path
                is recognised, as in files. Of the same types.
            intensity_range: Lowest and highest intensity of the specimen, for models with the
                "reference" encoding, which must guess them otherwise: the measured ones. Models
                with another encoding follow any gain and offset by themselves.
            error_map: Whether to estimate the error too, which takes a fifth more time.
            check: As for `complete_scan`.
            keep_measured: As for `complete_scan`.

        Raises:
            DataError: The scan cannot be completed.
        """
        scan = as_raster(partial, dwell, intensity_range=intensity_range)
        completion = self.complete_scan(
            scan, error_map=error_map, check=check, keep_measured=keep_measured
        )
        return _like(partial, completion)

    def complete_scan(
        self,
        scan: RasterScan | PathScan | ArrayLike,
        *,
        error_map: bool = True,
        check: SelfCheck | None = None,
        keep_measured: bool = False,
    ) -> Completion:
        """Completion of one partial scan, on the pixel grid or along the path of the probe.

        Args:
            scan: The scan, or intensities of the types that `complete` takes.
            error_map: Whether to estimate the error too.
            check: Of `self_check`; what the scan itself contradicts is left out.
            keep_measured: Whether to blend measured pixels with their completion, each weighted by
                the inverse square of its error: a pixel that was measured without noise stays.

        Raises:
            DataError: A side is less than 32 px.

        Example:
            >>> check = completer.self_check(scan)                          # doctest: +SKIP
            >>> image, error = completer.complete_scan(scan, check=check)   # doctest: +SKIP
        """
        (completion,) = self.complete_scans(
            [scan], error_map=error_map, checks=[check], keep_measured=keep_measured
        )
        return completion

    def complete_scans(
        self,
        scans: Sequence[RasterScan | PathScan | ArrayLike],
        *,
        error_map: bool = True,
        checks: Sequence[SelfCheck | None] | None = None,
        keep_measured: bool = False,
    ) -> list[Completion]:
        """Completions of scans of one shape, in one pass of the network; see `complete_scan`.

        Raises:
            DataError: A side is less than 32 px.
            ValueError: The shapes differ.
        """
        rasters = [as_raster(scan) for scan in scans]
        for scan in rasters:
            check_side(scan)
        judged = [check or NOT_CHECKED for check in checks or [None] * len(rasters)]
        together = scaled(rasters)
        found = self._predictor.judged(judged, together)
        completions = []
        for number, (scan, check) in enumerate(zip(rasters, judged, strict=True)):
            one, predicted = together.of(number), found.of(number)
            images = predicted.images
            image = one.as_float32(images[:, -1:])[0, 0]
            error = None
            if error_map or keep_measured:
                # What follows the measurements agrees with them, however wrong it is between them.
                error = self._predictor.expected_error(
                    images[:, :1], one, predicted, check.map_factor
                )
            if keep_measured and error is not None:
                noise = noise_of_measurements(one, predicted.parts)
                image, error = blend_measured(image, error, scan, noise)
            completions.append(Completion(image, error if error_map else None))
        return list(map(_like, scans, completions))

    def self_check(
        self, scan: RasterScan | PathScan | ArrayLike, dwell: ArrayLike | None = None
    ) -> SelfCheck:
        """How well the model predicts held-out parts of a scan; takes longer than completing it.

        Args:
            scan: As `partial` of `complete`.
            dwell: As for `complete`.

        Raises:
            DataError: A side is less than 32 px.
        """
        raster = as_raster(scan, dwell)
        check_side(raster)
        return check_pixels(self._predictor, raster, check_blocks(self._predictor, raster))

    def first_completion(
        self, scan: RasterScan | PathScan | ArrayLike
    ) -> NDArray[np.float32] | None:
        """The classical completion [h, w] that the network corrects; None if it corrects none.

        Raises:
            DataError: A side is less than 32 px.
        """
        if self.card.encoding not in CORRECTED:
            return None
        return self._image(self._predictor.first, scan)

    def network_completion(self, scan: RasterScan | PathScan | ArrayLike) -> NDArray[np.float32]:
        """The completion [h, w] without local means of what was measured without gaps.

        Raises:
            DataError: A side is less than 32 px.
        """
        return self._image(self._predictor.by_network, scan)

    def _image(
        self, make: Callable[[ScaledScans], Tensor], scan: RasterScan | PathScan | ArrayLike
    ) -> NDArray[np.float32]:
        raster = as_raster(scan)
        check_side(raster)
        one = scaled([raster])
        image: NDArray[np.float32] = one.as_float32(make(one))[0, 0]
        return image


def load_completer(
    source: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    precision: str = "float32",
) -> Completer:
    """A completer with a model that is named in any way.

    Args:
        source: A model folder, a run folder with a `model` in it, a folder of a checkpoint (which
            has no error map), a URL of one of the first two; `models:/NAME@alias` or
            `models:/NAME/VERSION` of MLflow's registry, or `runs:/ID` of MLflow, at the server
            of MLFLOW_TRACKING_URI or in the database in ./runs; None or "released" is the model
            that comes with the package. What is not on a disk is fetched once, into
            `stem-complete/models` in XDG_CACHE_HOME or ~/.cache.
        device: As for `Completer`.
        precision: As for `Completer`.

    Raises:
        ArtifactError: There is no model, or it cannot be used.
        ConfigError: The device is not there, or there is no such precision.
        TrackingError: MLflow has no such model, or does not answer.
        StorageError: A URL cannot be read.
        MissingPackageError: What such a name needs is not installed.
    """
    return Completer(load_model(source), device, precision=precision)


def _like(scan: object, completion: Completion) -> Completion:
    """A completion as what its scan was, such as xarray's arrays."""
    image, error = completion
    return Completion(like(scan, image), None if error is None else like(scan, error, "error"))


def check_side(scan: RasterScan) -> None:
    """Refuses a scan that is smaller than the network's stride.

    Raises:
        DataError: A side is less than 32 px.
    """
    if min(scan.shape) < MIN_SIDE_PX:
        raise DataError(
            expected=f"sides of at least {MIN_SIDE_PX} px",
            found=f"shape {scan.shape}",
            where=scan.where,
            fix="scan a larger field, or leave it out",
        )

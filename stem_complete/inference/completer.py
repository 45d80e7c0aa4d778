"""Partial scans in, completed images out: arrays in the detector's own units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import ConfigError, DataError
from stem_complete.inference.artifact import Artifact
from stem_complete.inference.card import ModelCard
from stem_complete.inference.labelled import as_raster, like
from stem_complete.inference.measured_pixels import blend_measured, noise_of_measurements
from stem_complete.inference.scaled_scans import ScaledScans, scaled
from stem_complete.inference.self_check import (
    NOT_CHECKED,
    TOO_LITTLE,
    SelfCheck,
    hold_out,
    hold_out_pixels,
    judge,
)
from stem_complete.inference.sources import load_model
from stem_complete.inference.tiling import check_tiles, run_network
from stem_complete.models.output import bounded_correction, corrected, rms_factor
from stem_complete.scan import CORRECTED, NetworkInput, PartialScan, fill_sigma_px
from stem_complete.scan.adaptive import interpolate
from stem_complete.scan.bands import bands, in_bands, sums_in_bands
from stem_complete.scan.encoding import analyse
from stem_complete.scan.network_input import Analysis

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}

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
        self.device = _device(device)
        self.tile_px, self.overlap_px = tile_px, overlap_px
        self._stride = artifact.network.stride
        check_tiles(self._stride, tile_px, overlap_px)
        self.precision = precision
        self._dtype = _dtype(precision)
        # Convolutions on CPUs take two thirds of the time in this memory format.
        self._network = copy.deepcopy(artifact.network).to(self.device, self._dtype)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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
            error_map: Whether to estimate the error too, which takes a sixth of the time on a CPU.
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
        completions = []
        images = self._in_units(scaled(rasters), partial(self._judged, judged))
        for scan, (predicted, *followed), check in zip(rasters, images, judged, strict=True):
            (image,) = followed or (predicted,)
            error = None
            if error_map or keep_measured:
                # What follows the measurements agrees with them, however wrong it is between them.
                error = self._expected_error(predicted, scan, check.map_factor)
            if keep_measured and error is not None:
                image, error = blend_measured(image, error, scan)
            completions.append(Completion(image.astype(np.float32), error if error_map else None))
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
        return self._following(raster, self._of_blocks(raster))

    def _of_blocks(self, scan: RasterScan) -> SelfCheck:
        """What held-out blocks say. Of images there is only what is needed, as scans are large."""
        rest, held = hold_out(scan)
        if rest is None:
            return TOO_LITTLE
        scaled_rest = scaled([rest])
        del rest

        def both(image: Tensor, encoded: NetworkInput) -> Tensor:
            return torch.cat([image, encoded.offset.expand_as(image)], 1)

        found = self._completed(scaled_rest, lambda scan: self._corrected(scan, both))
        completed, first = _at(held, found, scaled_rest)
        corrects = self.card.encoding in CORRECTED
        measured, dwell = scan.intensity[held], scan.dwell[held]
        check = judge(measured, dwell, completed, first if corrects else None)
        if self.card.calibration is None or math.isnan(check.error):
            return check
        image, offset = found[:, :1], found[:, 1:]
        trusted = scaled_rest.in_units(offset.lerp(image, check.trust))[0, 0]
        del found, image, offset, scaled_rest
        off = measured - trusted[held]
        rest, _ = hold_out(scan)
        assert rest is not None
        expected = self._expected_error(trusted, rest, 1.0)[held].astype(np.float64)
        return check.expecting(off, dwell.astype(np.float64), expected, noise_of_measurements(rest))

    def _following(self, scan: RasterScan, check: SelfCheck) -> SelfCheck:
        """The check with how closely single held-out pixels are to be followed."""
        rest, held = hold_out_pixels(scan)
        if rest is None:
            return check
        scaled_rest = scaled([rest])
        del rest
        found = self._completed(scaled_rest, partial(self._judged, [check]))
        image = scaled_rest.in_units(found)[0, 0]
        (interpolated,) = _at(held, self._completed(scaled_rest, interpolate), scaled_rest)
        del found, scaled_rest
        expected = None
        if self.card.calibration is not None:
            rest, _ = hold_out_pixels(scan)
            assert rest is not None
            expected = self._expected_error(image, rest, 1.0)[held]
        completed = image[held].astype(np.float32)
        return check.followed(scan.intensity[held] - completed, interpolated - completed, expected)

    def first_completion(
        self, scan: RasterScan | PathScan | ArrayLike
    ) -> NDArray[np.float32] | None:
        """The classical completion [h, w] that the network corrects; None if it corrects none.

        Raises:
            DataError: A side is less than 32 px.
        """
        if self.card.encoding not in CORRECTED:
            return None
        raster = as_raster(scan)
        check_side(raster)

        def offset(scan: PartialScan) -> Tensor:
            found = self._analyse(scan)
            return in_bands(lambda *maps: found.compose(*maps).offset, *found.maps)

        images = self._in_units(scaled([raster]), offset)
        first: NDArray[np.float32] = images[0, 0].astype(np.float32)
        return first

    def _in_units(
        self, scans: ScaledScans, complete: Callable[[PartialScan], Tensor]
    ) -> NDArray[np.float64]:
        """Completions [b, c, h, w], in the scans' units, of the scans in [-1, 1]."""
        found = self._completed(scans, complete)
        images = np.empty(found.shape)
        for band in bands(found):
            images[..., band, :] = scans.in_units(found[..., band, :])
        return images

    def _completed(self, scans: ScaledScans, complete: Callable[[PartialScan], Tensor]) -> Tensor:
        intensity, dwell = scans.scan
        with torch.inference_mode():
            return complete(PartialScan(intensity.to(self.device), dwell.to(self.device))).cpu()

    def _judged(self, checks: Sequence[SelfCheck], scan: PartialScan) -> Tensor:
        """Completions [b, 1, h, w] of which what the scans contradict is left out.

        Where measurements are to be followed, a second channel follows them.
        """
        shares = [(check.trust, check.following) for check in checks]
        trust, following = scan.intensity.new_tensor(shares).T[:, :, None, None, None]

        def trusted(image: Tensor, encoded: NetworkInput) -> Tensor:
            if (trust < 1).any():
                image = encoded.offset + trust * (image - encoded.offset)
            return image

        image = self._corrected(scan, trusted)
        if (following > 0).any():
            followed = in_bands(
                lambda image, other: image + following * (other - image),
                image,
                interpolate(scan),
            )
            return torch.cat([image, followed], 1)
        return image

    def _analyse(self, scan: PartialScan) -> Analysis:
        return analyse(scan, self.card.encoding, sigma_px=fill_sigma_px(self.card.coverage))

    def _corrected(
        self, scan: PartialScan, finish: Callable[[Tensor, NetworkInput], Tensor]
    ) -> Tensor:
        """What `finish` makes of the model's completion [b, 1, h, w] and its input, pixel by pixel.

        Bounds are those of the whole scan, however large it is.
        """
        found = self._analyse(scan)
        output = run_network(
            self._network,
            lambda rows, columns: found.window(rows, columns).x,
            found.shape,
            tile_px=self.tile_px,
            overlap_px=self.overlap_px,
        )
        correction = in_bands(
            lambda output, *maps: bounded_correction(output, found.compose(*maps)),
            output,
            *found.maps,
        )
        del output
        factor = rms_factor(sums_in_bands(torch.square, correction) / math.prod(found.shape))

        def finished(correction: Tensor, *maps: Tensor) -> Tensor:
            encoded = found.compose(*maps)
            if encoded.bound is not None:
                correction = correction * factor
            return finish(corrected(correction, encoded), encoded)

        return in_bands(finished, correction, *found.maps)

    def _expected_error(
        self, image: NDArray[np.float64], scan: RasterScan, factor: float
    ) -> NDArray[np.float32]:
        if self.card.calibration is None:
            return np.full(image.shape, np.nan, np.float32)
        return self.card.calibration.expected_error(image, scan, factor).astype(
            np.float32, copy=False
        )


def _at(places: NDArray[np.bool_], images: Tensor, scan: ScaledScans) -> NDArray[np.float64]:
    """Images [1, c, h, w] of one scan at these pixels [c, n], in its units."""
    found = images[:, :, torch.from_numpy(places)]
    return scan.in_units(found[..., None])[0, ..., 0]


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


def _dtype(precision: str) -> torch.dtype:
    if precision not in PRECISIONS:
        raise ConfigError(
            expected=" or ".join(PRECISIONS), found=precision, where="precision", fix="choose one"
        )
    return PRECISIONS[precision]


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch raises AssertionError where it was built without CUDA.
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            expected="a device that torch can use, such as cpu or cuda",
            found=f"{name} ({str(error).splitlines()[0]})",
            where="device",
            fix="choose another device, or install a torch that was built for this one",
        ) from None
    return device

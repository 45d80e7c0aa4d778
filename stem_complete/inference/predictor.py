"""A model at work on scans: how they become its input, and its output images in their units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.data.scans import RasterScan
from stem_complete.errors import ConfigError
from stem_complete.inference.artifact import Artifact
from stem_complete.inference.scaled_scans import ScaledScans
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.tiling import check_tiles, run_network
from stem_complete.models.output import bounded_correction, corrected, rms_factor
from stem_complete.scan import NetworkInput, PartialScan, fill_sigma_px
from stem_complete.scan.adaptive import interpolate
from stem_complete.scan.bands import bands, in_bands, sums_in_bands
from stem_complete.scan.encoding import analyse
from stem_complete.scan.network_input import Analysis

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}

Complete = Callable[[PartialScan], Tensor]
"""What is made of scans in [-1, 1]: images [b, c, h, w]."""


class Predictor:
    """A model on a device. Threads may share it.

    Args:
        artifact: The model.
        device: Device it runs on; None takes a GPU if torch finds one.
        precision: One of `PRECISIONS`.
        tile_px: Larger images go through the network in tiles of this side.
        overlap_px: Overlap of neighbouring tiles.

    Raises:
        ConfigError: The device is not there, or there is no such precision.
        ValueError: The tiles do not fit the network.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: str | torch.device | None,
        precision: str,
        tile_px: int,
        overlap_px: int,
    ) -> None:
        self.card = artifact.card
        self.device = _device(device)
        self._tile_px, self._overlap_px = tile_px, overlap_px
        check_tiles(artifact.network.stride, tile_px, overlap_px)
        # Convolutions on CPUs take two thirds of the time in this memory format.
        self._network = copy.deepcopy(artifact.network).to(self.device, _dtype(precision))
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def apply(self, complete: Complete, scans: ScaledScans) -> Tensor:
        """Images [b, c, h, w] of scans, in [-1, 1], on the CPU."""
        intensity, dwell = scans.scan
        with torch.inference_mode():
            return complete(PartialScan(intensity.to(self.device), dwell.to(self.device))).cpu()

    def apply_in_units(self, complete: Complete, scans: ScaledScans) -> NDArray[np.float64]:
        """The same in the scans' units."""
        found = self.apply(complete, scans)
        images = np.empty(found.shape)
        for band in bands(found):
            images[..., band, :] = scans.in_units(found[..., band, :])
        return images

    def first(self, scan: PartialScan) -> Tensor:
        """The classical completions [b, 1, h, w] that the network corrects."""
        found = self._analyse(scan)
        return in_bands(lambda *maps: found.compose(*maps).offset, *found.maps)

    def corrected(
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
            tile_px=self._tile_px,
            overlap_px=self._overlap_px,
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

    def judged(self, checks: Sequence[SelfCheck], scan: PartialScan) -> Tensor:
        """Completions [b, 1, h, w] of which what the scans contradict is left out.

        Where measurements are to be followed, a second channel follows them.
        """
        shares = [(check.trust, check.following) for check in checks]
        trust, following = scan.intensity.new_tensor(shares).T[:, :, None, None, None]

        def trusted(image: Tensor, encoded: NetworkInput) -> Tensor:
            if (trust < 1).any():
                image = encoded.offset + trust * (image - encoded.offset)
            return image

        image = self.corrected(scan, trusted)
        if (following > 0).any():
            followed = in_bands(
                lambda image, other: image + following * (other - image),
                image,
                interpolate(scan),
            )
            return torch.cat([image, followed], 1)
        return image

    def expected_error(
        self, image: NDArray[np.float64], scan: RasterScan, factor: float = 1.0
    ) -> NDArray[np.float32]:
        """The error map [h, w] of a scan's completion, see `ExpectedErrors.expected_error`.

        NaN if the model was never calibrated.
        """
        if self.card.calibration is None:
            return np.full(image.shape, np.nan, np.float32)
        return self.card.calibration.expected_error(image, scan, factor).astype(
            np.float32, copy=False
        )

    def _analyse(self, scan: PartialScan) -> Analysis:
        return analyse(scan, self.card.encoding, sigma_px=fill_sigma_px(self.card.coverage))


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

"""A model at work on scans: how they become its input, and its output their completions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.errors import ConfigError
from stem_complete.inference.artifact import Artifact
from stem_complete.inference.scaled_scans import ScaledScans
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.tiling import check_tiles, run_network
from stem_complete.models.output import (
    bounded_correction,
    corrected,
    credible_share,
    rms_factor,
)
from stem_complete.scan import NetworkInput, PartialScan, fill_sigma_px
from stem_complete.scan.adaptive import interpolate
from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.encoding import analyse
from stem_complete.scan.network_input import Analysis
from stem_complete.scan.parts import Parts

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


class Predicted(NamedTuple):
    """What a model makes of scans.

    Attributes:
        images: [b, c, h, w] on [-1, 1], on the CPU.
        parts: What the scans consist of, on the model's device; None if its encoding does not tell.
    """

    images: Tensor
    parts: Parts | None

    def parts_of(self, number: int) -> Parts | None:
        """Those of one scan."""
        return None if self.parts is None else self.parts.of(number)


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

    def judged(self, checks: Sequence[SelfCheck], scans: ScaledScans) -> Predicted:
        """Completions of which what the scans contradict is left out.

        Where measurements are to be followed, a second channel follows them.
        """
        scan = scans.on(self.device)
        shares = [(check.trust, check.following) for check in checks]
        trust, following = scan.intensity.new_tensor(shares).T[:, :, None, None, None]

        def trusted(image: Tensor, encoded: NetworkInput) -> Tensor:
            if (trust < 1).any():
                image = encoded.offset + trust * (image - encoded.offset)
            return image

        with torch.inference_mode():
            image, parts = self._corrected(scan, trusted)
            if (following > 0).any():
                followed = in_bands(
                    lambda image, other: image + following * (other - image),
                    image,
                    interpolate(scan),
                )
                image = torch.cat([image, followed], 1)
            return Predicted(image.cpu(), parts)

    def with_first(self, scans: ScaledScans) -> Predicted:
        """Completions, and as a second channel the classical ones that the network corrects."""

        def both(image: Tensor, encoded: NetworkInput) -> Tensor:
            return torch.cat([image, encoded.offset.expand_as(image)], 1)

        with torch.inference_mode():
            images, parts = self._corrected(scans.on(self.device), both)
            return Predicted(images.cpu(), parts)

    def first(self, scans: ScaledScans) -> Tensor:
        """The classical completions [b, 1, h, w] that the network corrects, on [-1, 1]."""
        with torch.inference_mode():
            found = self._analyse(scans.on(self.device))
            return in_bands(lambda *maps: found.compose(*maps).offset, *found.maps).cpu()

    def interpolated(self, scans: ScaledScans) -> Tensor:
        """Images [b, 1, h, w] through the measurements, on [-1, 1]."""
        with torch.inference_mode():
            return interpolate(scans.on(self.device)).cpu()

    def expected_error(
        self, image: Tensor, scan: ScaledScans, parts: Parts | None, factor: float = 1.0
    ) -> NDArray[np.float32]:
        """The error map [h, w] of one scan's completion, see `ExpectedErrors.expected_error`.

        NaN if the model was never calibrated.

        Args:
            image: The completion [1, 1, h, w] on [-1, 1].
            scan: The scan.
            parts: Those of the scan, if they are known.
            factor: On the errors.
        """
        calibration = self.card.calibration
        if calibration is None:
            return np.full(image.shape[-2:], np.nan, np.float32)
        with torch.inference_mode():
            expected = calibration.expected_error(image, scan.scan, parts, factor)
        expected *= scan.half.item()
        return expected

    def _corrected(
        self, scan: PartialScan, finish: Callable[[Tensor, NetworkInput], Tensor]
    ) -> tuple[Tensor, Parts | None]:
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
        mean_square = sums_in_bands(torch.square, correction) / math.prod(found.shape)
        factor = credible_share(mean_square) * rms_factor(mean_square)

        def finished(correction: Tensor, *maps: Tensor) -> Tensor:
            encoded = found.compose(*maps)
            if encoded.bound is not None:
                correction = correction * factor
            return finish(corrected(correction, encoded), encoded)

        return in_bands(finished, correction, *found.maps), found.parts

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

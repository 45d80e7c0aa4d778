"""A model at work on scans: how they become its input, and its output their completions."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.errors import ConfigError
from stem_complete.inference.artifact import Artifact
from stem_complete.inference.card import ModelCard
from stem_complete.inference.scaled_scans import ScaledScans
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.tiling import check_tiles, run_network
from stem_complete.models.output import (
    bounded_correction,
    corrected,
    credible_share,
    rms_factor,
)
from stem_complete.scan import PartialScan, fill_sigma_px
from stem_complete.scan.adaptive import interpolate
from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.dense import LocalMeans, averaged_where_dense
from stem_complete.scan.encoding import analyse
from stem_complete.scan.network_input import Analysis
from stem_complete.scan.parts import Parts

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


class Predicted(NamedTuple):
    """What a model makes of scans.

    Attributes:
        images: [b, c, h, w] on [-1, 1], on the CPU.
        parts: What the scans consist of, on the model's device; None if its encoding does not tell.
        means: How far the images are local means, on the model's device; None if they are not.
    """

    images: Tensor
    parts: Parts | None
    means: LocalMeans | None

    def of(self, number: int) -> Predicted:
        """What it makes of one scan."""
        return Predicted(
            self.images[number : number + 1],
            None if self.parts is None else self.parts.of(number),
            None if self.means is None else self.means.of(number),
        )


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
        self._blur_sigma_px = _blur_sigma_px(self.card)
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

        def trusted(image: Tensor, *maps: Tensor) -> Tensor:
            encoded = found.compose(*maps)
            return encoded.offset.lerp(image, trust)

        with torch.inference_mode():
            image, found = self._by_network(scan)
            if (trust < 1).any():
                image = in_bands(trusted, image, *found.maps)
            image, means = self._averaged(image, found)
            if (following > 0).any():
                followed = in_bands(
                    lambda image, other: image + following * (other - image),
                    image,
                    interpolate(scan),
                )
                image = torch.cat([image, followed], 1)
            return Predicted(image.cpu(), found.parts, means)

    def with_first(self, scans: ScaledScans) -> Predicted:
        """Completions, and as a second channel the classical ones that the network corrects."""

        def both(image: Tensor, *maps: Tensor) -> Tensor:
            return torch.cat([image, found.compose(*maps).offset.expand_as(image)], 1)

        with torch.inference_mode():
            image, found = self._by_network(scans.on(self.device))
            image, means = self._averaged(image, found)
            return Predicted(in_bands(both, image, *found.maps).cpu(), found.parts, means)

    def by_network(self, scans: ScaledScans) -> Tensor:
        """Completions [b, 1, h, w] on [-1, 1] without local means of what was measured."""
        with torch.inference_mode():
            return self._by_network(scans.on(self.device))[0].cpu()

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
        self, image: Tensor, scan: ScaledScans, found: Predicted, factor: float = 1.0
    ) -> NDArray[np.float32]:
        """The error map [h, w] of one scan's completion, see `ExpectedErrors.expected_error`.

        NaN if the model was never calibrated.

        Args:
            image: The completion [1, 1, h, w] on [-1, 1].
            scan: The scan.
            found: What was made of it.
            factor: On the errors.
        """
        calibration = self.card.calibration
        if calibration is None:
            return np.full(image.shape[-2:], np.nan, np.float32)
        with torch.inference_mode():
            of_network = calibration.expected_error(image, scan.scan, found.parts, factor)
            if found.means is None:
                expected = of_network
            else:
                before = torch.from_numpy(of_network).to(found.means.share)
                expected = found.means.expected_error(before)[0, 0].float().cpu().numpy()
        expected *= scan.half.item()
        return expected

    def _by_network(self, scan: PartialScan) -> tuple[Tensor, Analysis]:
        """The network's completion [b, 1, h, w], and what it corrects.

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

        def completed(correction: Tensor, *maps: Tensor) -> Tensor:
            encoded = found.compose(*maps)
            if encoded.bound is not None:
                correction = correction * factor
            return corrected(correction, encoded)

        return in_bands(completed, correction, *found.maps), found

    def _averaged(self, image: Tensor, found: Analysis) -> tuple[Tensor, LocalMeans | None]:
        if found.parts is None or self._blur_sigma_px is None:
            return image, None
        return averaged_where_dense(image, found.parts, self._blur_sigma_px)

    def _analyse(self, scan: PartialScan) -> Analysis:
        return analyse(scan, self.card.encoding, sigma_px=fill_sigma_px(self.card.coverage))


def _blur_sigma_px(card: ModelCard) -> float | None:
    """How completions are blurred beside what is measured [px]; None if they are not."""
    scan = card.config.get("scan", {})
    return scan.get("blur_sigma_px") if scan.get("sample") == "original" else None


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

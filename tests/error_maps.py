"""Error maps of completions in the units of their scans, from calibrations, which want [-1, 1]."""

import numpy as np
import torch

from stem_complete.inference.scaled_scans import scaled


def on_scale(scan, image):
    """A completion [1, 1, h, w], and its scan, on the scan's [-1, 1]."""
    found = scaled([scan])
    unit = np.where(found.half > 0, found.half, 1.0)
    return torch.from_numpy((image - found.middle) / unit).float(), found.scan


def expected_error(calibration, scan, image, factor=1.0):
    """The error map [h, w] of a completion."""
    completion, partial = on_scale(scan, image)
    expected = calibration.expected_error(completion, partial, factor=factor)
    return scaled([scan]).half.item() * expected

"""Error maps of models that were calibrated before errors were a quadratic function.

A network of one hidden layer of the same features. `error_map` has what is calibrated now.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from stem_complete.inference.error_features import FEATURES
from stem_complete.inference.error_map import ExpectedErrors

_MOST_DEVIATIONS = 4.0  # of a feature from its mean over validation scans
_LOG_SQUARES = (-12.0, 10.0)


class ErrorNetwork(ExpectedErrors):
    """The network that expects errors; one row of weights for each of its hidden units.

    Attributes:
        means: Mean of each feature, see `FEATURES`.
        deviations: Standard deviation of each feature.
        weights: Of the features, in each hidden unit [n, 10].
        biases: Of the hidden units [n].
        outputs: Weights of the hidden units [n].
        constant: Added to their sum, which is the logarithm of the mean squared error.
        num_images: Number of validation scans they were fitted to.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    outputs: tuple[float, ...]
    constant: float
    num_images: int

    @model_validator(mode="after")
    def _is_network(self) -> Self:
        num, sizes = len(FEATURES), {len(self.biases), len(self.outputs), len(self.weights)}
        rows = {len(self.means), len(self.deviations), *map(len, self.weights)}
        if len(sizes) != 1 or rows != {num}:
            raise ValueError(f"{num} features, and as many hidden units everywhere")
        values = [*self.means, *self.deviations, *self.biases, *self.outputs, self.constant]
        if not np.isfinite([*values, *(v for row in self.weights for v in row)]).all():
            raise ValueError("finite weights")
        if min(self.deviations) <= 0:
            raise ValueError("positive deviations")
        return self

    def log_square(self, features: Tensor) -> Tensor:
        """See `ExpectedErrors`."""
        as_column = features.new_tensor([self.means, self.deviations])[:, :, None, None]
        mean, deviation = as_column
        x = ((features - mean) / deviation).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        hidden = torch.einsum("nf,fhw->nhw", features.new_tensor(self.weights), x)
        hidden = (hidden + features.new_tensor(self.biases)[:, None, None]).tanh_()
        outputs = features.new_tensor(self.outputs)
        log_square = torch.einsum("n,nhw->hw", outputs, hidden) + self.constant
        bounded: Tensor = log_square.clamp(*_LOG_SQUARES)
        return bounded

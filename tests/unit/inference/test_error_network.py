"""Error maps of models that were calibrated by a network: as they were."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stem_complete.inference.card import ModelCard
from stem_complete.inference.error_features import FEATURES
from stem_complete.inference.error_network import ErrorNetwork

NUM = len(FEATURES)
STORED = {
    "means": [1.0] * NUM,
    "deviations": [2.0] * NUM,
    "weights": [[0.1] * NUM, [0.0] * NUM],
    "biases": [0.0, 0.5],
    "outputs": [2.0, 1.0],
    "constant": -1.0,
    "num_images": 64,
}


def test_a_card_with_a_network_still_opens():
    adapter = TypeAdapter(ModelCard.model_fields["calibration"].annotation)
    assert adapter.validate_python(STORED) == ErrorNetwork(**STORED)


@pytest.mark.parametrize(("value", "deviations"), [(3.0, 1.0), (1.0, 0.0), (99.0, 4.0)])
def test_its_map_is_that_of_the_network(value, deviations):
    expected = 2 * torch.tensor(0.1 * NUM * deviations).tanh() + torch.tensor(0.5).tanh() - 1
    log_square = ErrorNetwork(**STORED).log_square(torch.full((NUM, 2, 3), value))
    torch.testing.assert_close(log_square, expected.expand(2, 3))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"means": (0.0,)}, id="features"),
        pytest.param({"weights": ((0.1,),)}, id="weights"),
        pytest.param({"outputs": (1.0,)}, id="units"),
        pytest.param({"constant": float("nan")}, id="nan"),
        pytest.param({"deviations": (0.0,) * NUM}, id="no-deviation"),
    ],
)
def test_what_is_no_network_is_refused(changes):
    with pytest.raises(ValidationError):
        ErrorNetwork(**STORED | changes)

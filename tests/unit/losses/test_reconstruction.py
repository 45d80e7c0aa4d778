"""Reconstruction losses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import loss_values

from stem_complete.losses import half_size, huberise, mean_power


def test_an_error_is_per_example_and_weighted():
    truth = torch.rand(3, 1, 8, 8)
    shift = torch.tensor([0.0, 0.1, -0.2]).view(3, 1, 1, 1)
    torch.testing.assert_close(
        mean_power(truth + shift, truth, 2, 200.0), torch.tensor([0.0, 2.0, 8.0])
    )


def test_an_error_refuses_to_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        mean_power(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8))


@given(loss=loss_values, h=st.floats(0.01, 100))
def test_huberise_is_the_lesser_of_loss_and_root(loss, h):
    expected = min(loss, (h * loss) ** 0.5) if loss > h else loss
    assert huberise(torch.tensor(loss), h).item() == pytest.approx(expected, rel=1e-5)


def test_huberise_has_a_finite_gradient_at_zero_and_a_smaller_one_above_h():
    loss = torch.tensor([0.0, 0.5, 4.0], requires_grad=True)
    huberise(loss).sum().backward()
    assert loss.grad.tolist() == pytest.approx([1.0, 1.0, 0.25])


def test_half_size_is_the_mean_of_2x2_pixels():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert half_size(image).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]

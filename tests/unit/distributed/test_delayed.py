"""Flags come in order, each once, `delay` pushes late."""

import pytest
import torch

from stem_complete.distributed import DelayedFlags


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_each_step_is_read_once_and_late(delay):
    flags, popped = DelayedFlags(delay), []
    for step in range(10, 18):
        values = torch.tensor([step, -step], dtype=torch.float32)
        flags.push(step, values)
        values.zero_()  # what was pushed does not change any more
        popped.append(flags.pop())
    expected = [(step, [float(step), -float(step)]) for step in range(10, 18)]
    assert popped == [None] * delay + expected[: len(expected) - delay]
    assert flags.drain() == expected[len(expected) - delay :]
    assert flags.drain() == []
    assert flags.pop() is None


def test_flags_may_be_bools():
    flags = DelayedFlags(0)
    flags.push(1, torch.tensor([True, False]))
    assert flags.pop() == (1, [1.0, 0.0])

"""Hard examples: which are kept, and when they are trained on again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from stem_complete.config import load_config
from stem_complete.data.loader import Batch
from stem_complete.data.sampler import global_batch
from stem_complete.errors import ConfigError
from stem_complete.scan import Stream, example_keys, uniform
from stem_complete.training.hard_examples import LAG, HardExample, HardExamples, with_taken
from stem_complete.training.log_window import LogWindow

NUMBERS = np.arange(100, 1100)


def hard_examples(num_kept: int = 5, batch_size: int = 1, probability: float = 0.2) -> HardExamples:
    return HardExamples(num_kept, probability, numbers=NUMBERS, seed=3, batch_size=batch_size)


LOSSES = np.random.default_rng(0).lognormal(size=1100)


def loss_of(index: int) -> float:
    """Some examples are harder than others, whenever they are seen."""
    return float(LOSSES[index])


def indices(step: int, batch_size: int) -> list[int]:
    return NUMBERS[global_batch(len(NUMBERS), 3, step, batch_size)].tolist()


def run(kept: HardExamples, steps: range) -> list[dict[int, HardExample]]:
    """Trains, in which each step learns the losses at once."""
    found = []
    for step in steps:
        taken = kept.take(step)
        seen = indices(step, kept.batch_size)
        for place, example in taken.items():
            seen[place] = example.example
        kept.learn(step, [loss_of(index) for index in seen])
        found.append(taken)
    return found


def test_rules_are_those_of_the_published_code() -> None:
    """As its loop has them, for batches of one example and losses that come at once.

    Ours come two steps later, and so does what is done about them.
    """
    taken = run(hard_examples(), range(400))
    buffer: list[int] = []
    threshold, tracker, mean, mean2 = 0.0, 0.2, loss_of(indices(0, 1)[0]), None
    mean2 = mean**2
    for step in range(400 - LAG):
        chance, _, slot = uniform(
            example_keys(3, step, torch.arange(1), Stream.HARD_EXAMPLES), (3,)
        )[0].tolist()
        use_buffer = 0 in taken[step]
        assert use_buffer == (chance < 0.2 and step >= 5 - 1 + LAG)
        (index,) = indices(step, 1)
        mse = loss_of(taken[step][0].example if use_buffer else index)
        mean = 0.99 * mean + 0.01 * mse
        mean2 = 0.99 * mean2 + 0.01 * mse**2
        deviation = math.sqrt(max(mean2 - mean**2, 0))
        if len(buffer) < 5 and not use_buffer:
            buffer.append(index)
            tracker = 0.99 * tracker + 0.01
        elif not use_buffer and mse > threshold:
            buffer[int(slot * 5)] = index
            tracker = 0.99 * tracker + 0.01
        else:
            tracker = 0.99 * tracker
        towards = mean - 5 * deviation if tracker < 0.2 else mean + 5 * deviation
        threshold = 0.99 * threshold + 0.01 * towards
    ours = hard_examples()
    run(ours, range(400))  # the last of which knew of steps up to 397
    assert [example.example for example in ours.kept] == buffer
    assert ours.threshold == pytest.approx(threshold)
    assert threshold > 0


def test_what_is_kept_is_hard_and_as_much_enters_as_is_taken() -> None:
    kept = hard_examples(num_kept=50, batch_size=4)
    taken = run(kept, range(800))
    num_taken = sum(map(len, taken[100:]))
    assert num_taken == pytest.approx(0.2 * 4 * 700, rel=0.1)
    hard = np.mean([loss_of(example.example) for example in kept.kept])
    assert hard > 1.5 * np.mean([loss_of(int(index)) for index in NUMBERS])
    assert kept.entering == pytest.approx(0.2, abs=0.08)
    # Each is known by where it was first seen.
    for index, step, place in kept.kept:
        assert indices(step, 4)[place] == index


def test_nothing_depends_on_when_losses_are_learnt_or_on_a_restart() -> None:
    """Within the time that they need; the state goes through JSON, as in a checkpoint."""
    whole, late, stopped = (hard_examples(batch_size=3, probability=0.5) for _ in range(3))
    expected = run(whole, range(60))
    waiting: list[tuple[int, list[float]]] = []
    for step in range(60):
        if len(waiting) == LAG:
            late.learn(*waiting.pop(0))
        taken = late.take(step)
        assert taken == expected[step]
        seen = indices(step, 3)
        for place, example in taken.items():
            seen[place] = example.example
        waiting.append((step, [loss_of(index) for index in seen]))
    for end in (1, 20, 21, 41):
        stopped = hard_examples(batch_size=3, probability=0.5)
        run(stopped, range(end))
        state = json.loads(json.dumps(stopped.state()))
        run(stopped, range(end, 60))  # which changes nothing that was told
        resumed = hard_examples(batch_size=3, probability=0.5)
        resumed.load(state)
        assert run(resumed, range(end, 60)) == expected[end:]


def test_losses_that_are_not_finite_count_nothing() -> None:
    kept = hard_examples(num_kept=2, batch_size=2)
    for step, losses in enumerate(([1.0, math.nan], [math.inf, 2.0], [0.0, 0.0])):
        kept.take(step)
        kept.learn(step, losses)
    json.dumps(kept.state(), allow_nan=False)
    kept.take(3)
    assert [(example.step, example.position) for example in kept.kept] == [(0, 0), (1, 1)]
    assert kept.moments == pytest.approx((1.01, 1.03))


class Squares:
    """Examples [1], the squares of their numbers."""

    def read(self, indices):
        return (np.asarray(indices, np.float32) ** 2)[:, None]


def test_an_example_that_is_taken_comes_with_its_step_and_position() -> None:
    numbers, places = torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])
    batch = Batch(torch.tensor([[9.0], [16.0], [25.0]]), numbers, places)
    taken = {7: HardExample(10, 2, 1), 9: HardExample(11, 0, 0)}
    found = with_taken(batch, 50, taken, Squares())  # type: ignore[arg-type]
    assert found.examples[:, 0].tolist() == [9, 100, 25]
    assert found.indices.tolist() == [3, 10, 5]
    assert found.positions.tolist() == [6, 1, 8]
    assert found.steps is not None
    assert found.steps.tolist() == [50, 2, 50]
    assert batch.indices.tolist() == [3, 4, 5]


def test_spikes_say_where_an_example_was_seen_first() -> None:
    window = LogWindow(("image",), torch.device("cpu"))
    batch = Batch(torch.zeros(2, 1), torch.tensor([4, 10]), torch.tensor([0, 1]))
    losses = torch.tensor([[[5.0, 6.0]], [[1.0, 2.0]]])[None]
    window.add(50, [batch], losses)
    window.add(51, [batch._replace(steps=torch.tensor([51, 2]))], losses)
    assert {(spike.step, spike.position, spike.example) for spike in window.spikes()} == {
        *((50, 0, 4), (50, 1, 10)),
        *((51, 0, 4), (2, 1, 10)),
    }


def test_cuda_graphs_are_refused() -> None:
    changes = ["training.hard_examples={}", "training.cuda_graph=true"]
    with pytest.raises(ConfigError, match=r"hard_examples .*add training.cuda_graph=false"):
        load_config([], ["name=a", "data.store=none", *changes])

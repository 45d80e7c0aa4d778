"""Hard examples are trained on again, as by the published code of partial STEM.

It keeps 50 examples with their scans. Each step it takes one of them with a probability of 0.2,
else a new one, which replaces one of the 50 if its loss is above a threshold. The threshold goes up
and down so that as large a fraction of examples enters.

Here that is so for each place in the global batch, and running means begin with the first loss,
not with numbers of the published code's own scale. All follows from the losses. They come to
every worker with the other sums of a step, and count two steps later, when they have reached the
host in any case: no step waits, and all workers keep the same examples. An example is kept as its
number, step and position, from which its variation and scan follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.examples import Examples
from stem_complete.data.loader import Batch
from stem_complete.data.sampler import global_batch
from stem_complete.scan import Stream, example_keys, uniform

LAG = 2
"""Steps after which losses count; those of the step before may still be on the device."""
DECAY = 0.99
"""Of all running means, for each example (published code)."""
NUM_STDDEV = 5
"""How far from the mean loss the threshold is drawn (published code)."""


class HardExample(NamedTuple):
    """An example as it was seen first: its number, and from what its scan follows."""

    example: int
    step: int
    position: int


class HardExamples:
    """The examples that are kept, and which of them a step takes.

    Args:
        num_kept: Number of examples; the first ones fill it, and only then are any taken.
        probability: That a place in the batch takes one; and what fraction of examples enters.
        numbers: Of the training examples, in the order of the sampler.
        seed: Of the run.
        batch_size: Examples a step, over all workers.
    """

    def __init__(
        self,
        num_kept: int,
        probability: float,
        *,
        numbers: NDArray[np.int64],
        seed: int,
        batch_size: int,
    ) -> None:
        self.num_kept, self.probability = num_kept, probability
        self.numbers, self.seed, self.batch_size = numbers, seed, batch_size
        self.kept: list[HardExample] = []
        self.threshold = 0.0
        self.entering = probability  # running fraction of examples that enter
        self.moments: tuple[float, float] | None = None  # running means of losses and their squares
        self._taken: dict[int, list[int]] = {}  # places with a kept example, by step
        self._waiting: list[tuple[int, list[int], list[float | None]]] = []

    def take(self, step: int) -> dict[int, HardExample]:
        """Kept examples by the places in the batch of `step` that they take."""
        while self._waiting and self._waiting[0][0] <= step - LAG:
            self._enter(*self._waiting.pop(0))
        taken: dict[int, HardExample] = {}
        if len(self.kept) == self.num_kept:
            for place, (chance, choice, _) in enumerate(_draws(self.seed, step, self.batch_size)):
                if chance < self.probability:
                    taken[place] = self.kept[int(choice * self.num_kept)]
        self._taken[step] = list(taken)
        return taken

    def learn(self, step: int, losses: Sequence[float]) -> None:
        """Takes note of the losses of a step, [batch_size], in the order of the batch."""
        # JSON has no NaN.
        finite = [loss if math.isfinite(loss) else None for loss in losses]
        self._waiting.append((step, self._taken.pop(step), finite))

    def state(self) -> dict[str, Any]:
        """As plain values, once all steps that were taken are learnt."""
        assert not self._taken
        return {
            "kept": [list(example) for example in self.kept],
            "threshold": self.threshold,
            "entering": self.entering,
            "moments": self.moments,
            "waiting": [(step, [*places], [*losses]) for step, places, losses in self._waiting],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave; of more examples than are kept now, the first ones."""
        self.kept = [HardExample(*example) for example in state["kept"]][: self.num_kept]
        self.threshold, self.entering = state["threshold"], state["entering"]
        self.moments = state["moments"] and tuple(state["moments"])
        self._waiting = [(step, places, losses) for step, places, losses in state["waiting"]]

    def _enter(self, step: int, taken: Sequence[int], losses: Sequence[float | None]) -> None:
        indices = self.numbers[global_batch(len(self.numbers), self.seed, step, self.batch_size)]
        draws = _draws(self.seed, step, self.batch_size)
        for place, loss in enumerate(losses):
            if loss is None:
                continue
            mean, square = self.moments or (loss, loss**2)
            mean, square = _moved(mean, loss), _moved(square, loss**2)
            self.moments = mean, square
            is_new, is_full = place not in taken, len(self.kept) == self.num_kept
            enters = is_new and (loss > self.threshold or not is_full)
            if enters:
                slot = int(draws[place][2] * self.num_kept) if is_full else len(self.kept)
                self.kept[slot : slot + 1] = [HardExample(int(indices[place]), step, place)]
            self.entering = _moved(self.entering, float(enters))
            reach = NUM_STDDEV * math.sqrt(max(square - mean**2, 0.0))
            towards = mean + reach if self.entering >= self.probability else mean - reach
            self.threshold = _moved(self.threshold, towards)


def with_taken(
    batch: Batch, step: int, taken: Mapping[int, HardExample], examples: Examples
) -> Batch:
    """A worker's micro-batch with kept examples in their places, each of the step it was seen in.

    Args:
        batch: Of `step`.
        step: Steps taken before it.
        taken: From `HardExamples.take`.
        examples: Where they are read.

    Raises:
        StemCompleteError: An example cannot be read.
    """
    values, indices, positions = (part.clone() for part in batch[:3])
    steps = torch.full_like(positions, step)
    rows = [row for row, place in enumerate(batch.positions.tolist()) if place in taken]
    if rows:
        hard = [taken[int(batch.positions[row])] for row in rows]
        values[rows] = torch.from_numpy(examples.read(np.array([each.example for each in hard])))
        indices[rows], steps[rows], positions[rows] = torch.tensor(hard).unbind(1)
    return Batch(values, indices, positions, steps)


@lru_cache(maxsize=2 * LAG)
def _draws(seed: int, step: int, batch_size: int) -> list[list[float]]:
    """Three uniform numbers for each place in a batch."""
    keys = example_keys(seed, step, torch.arange(batch_size), Stream.HARD_EXAMPLES)
    return uniform(keys, (3,)).tolist()


def _moved(mean: float, value: float) -> float:
    return DECAY * mean + (1 - DECAY) * value

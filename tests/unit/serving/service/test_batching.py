"""Batches are of one group, in the order of asking, whoever hangs up or fails."""

import asyncio
import threading
from collections.abc import Sequence
from itertools import chain

import pytest

from stem_complete.serving.service.batching import Batcher


class Held:
    """Work that waits at a gate, and notes its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.gate.wait(30)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("13 cannot be done")
        return [10 * item for item in items]


async def begun(batcher, item, group="a"):
    """A call that has joined the queue."""
    task = asyncio.create_task(batcher.submit(item, group))
    await asyncio.sleep(0)
    return task


def test_what_waits_while_a_batch_is_at_work_becomes_the_next_one():
    async def run():
        work = Held()
        batcher = Batcher(work, 3)
        tasks = [await begun(batcher, item) for item in range(6)]
        work.gate.set()
        results = await asyncio.gather(*tasks)
        await batcher.close()
        return work.batches, results

    batches, results = asyncio.run(run())
    assert [each.result for each in results] == [0, 10, 20, 30, 40, 50]
    assert sorted(chain(*batches)) == [0, 1, 2, 3, 4, 5]
    assert all(len(batch) <= 3 for batch in batches)
    assert [batch for batch in batches if len(batch) == 3], "no batch was ever full"
    sizes = {item: len(batch) for batch in batches for item in batch}
    assert [each.batch_size for each in results] == [sizes[item] for item in range(6)]


def test_a_batch_is_of_one_group():
    async def run():
        work = Held()
        batcher = Batcher(work, 8)
        first = await begun(batcher, 0, "x")
        await asyncio.sleep(0.01)  # it is at work alone
        tasks = [first, *[await begun(batcher, i, "even" if i % 2 else "odd") for i in range(1, 7)]]
        work.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()
        return work.batches

    assert asyncio.run(run()) == [[0], [1, 3, 5], [2, 4, 6]]


def test_who_hangs_up_before_its_batch_is_left_out_and_later_harms_no_one():
    async def run():
        work = Held()
        batcher = Batcher(work, 8)
        at_work = await begun(batcher, 0)
        await asyncio.sleep(0.01)
        waiting = [await begun(batcher, item) for item in (1, 2, 3)]
        waiting[1].cancel()
        at_work.cancel()  # in the middle of its batch
        await asyncio.sleep(0.01)
        work.gate.set()
        results = await asyncio.gather(at_work, *waiting, return_exceptions=True)
        await batcher.close()
        return work.batches, results, batcher.busy_s

    batches, results, busy_s = asyncio.run(run())
    assert batches == [[0], [1, 3]]
    assert [r.result for r in (results[1], results[3])] == [10, 30]
    assert all(isinstance(r, asyncio.CancelledError) for r in (results[0], results[2]))
    assert busy_s == 0


def test_an_error_befalls_only_who_caused_it():
    async def run():
        work = Held()
        batcher = Batcher(work, 8)
        first = await begun(batcher, 0)
        await asyncio.sleep(0.01)
        tasks = [first, *[await begun(batcher, item) for item in (1, 13, 2)]]
        work.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        return work.batches, results

    batches, results = asyncio.run(run())
    assert batches[1:] == [[1, 13, 2], [1], [13], [2]]
    assert isinstance(results[2], ValueError)
    assert [results[i].result for i in (0, 1, 3)] == [0, 10, 20]


def test_other_work_is_done_between_batches():
    async def run():
        work = Held()
        batcher = Batcher(work, 8)
        first = await begun(batcher, 0)
        await asyncio.sleep(0.01)
        other = asyncio.create_task(batcher.between(lambda: list(work.batches)))
        await asyncio.sleep(0)
        last = await begun(batcher, 1)
        work.gate.set()
        await asyncio.gather(first, last)
        await batcher.close()
        return await other

    assert asyncio.run(run()) == [[0]]


@pytest.mark.parametrize("size", [1, 5])
def test_no_batch_is_larger_than_is_allowed(size):
    async def run():
        work = Held()
        work.gate.set()
        batcher = Batcher(work, size)
        await asyncio.gather(*[batcher.submit(item, "a") for item in range(11)])
        await batcher.close()
        return work.batches

    batches = asyncio.run(run())
    assert sorted(chain(*batches)) == list(range(11))
    assert max(map(len, batches)) <= size

"""Worker: sums statistics and ALRC moments over ranks and saves what it sees."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from stem_complete import ALRC
from stem_complete.distributed import StatisticsExchange, gather_objects, torchrun_context

folder = Path(sys.argv[1])
with torchrun_context(use_gpu=False) as context:
    rank = context.rank
    exchange = StatisticsExchange()
    exchange.start({"a": torch.full((2,), rank + 1.0), "b": torch.tensor(10.0 * rank)})
    sums = exchange.finish()
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    # Unequal shares: the moments must be those of all six losses.
    alrc(torch.tensor([1.0, 2.0, 3.0, 4.0]) if rank else torch.tensor([5.0, 6.0]))
    result = {
        **sums,
        "moments": torch.stack((alrc.mu1, alrc.mu2)),
        "names": gather_objects(f"rank {rank} of {context.world_size}"),
    }
    torch.save(result, folder / f"{rank}.pt")
assert not dist.is_initialized()

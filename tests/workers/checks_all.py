"""Worker: what `agree`, `from_main` and `all_ok` do when a worker differs or fails.

checks_all.py FOLDER
"""

import sys
from pathlib import Path

import torch

from stem_complete.distributed import agree, all_ok, environment, from_main, torchrun_context
from stem_complete.errors import DataError, StemCompleteError

folder = Path(sys.argv[1])


def caught(action):
    try:
        return action()
    except StemCompleteError as error:
        return (type(error).__name__, str(error))


def fail(error):
    raise error


with torchrun_context(use_gpu=False) as context:
    rank = context.rank
    # Unlike ConfigError's, this `where` is a path, which crosses to the other workers.
    missing = DataError(expected="a file", found="none", where=folder / "store", fix="copy it")
    calls = []
    agree(environment() | {"config": "a1"})
    result = {
        "differ": caught(
            lambda: agree({"torch": "2.12" if rank == 1 else "2.13", "python": "3.11"})
        ),
        "absent": caught(lambda: agree({"a": "1"} if rank == 0 else {})),
        "from_main": from_main(lambda: calls.append(rank) or {"answer": rank + 42}),
        "from_main_fails": caught(lambda: from_main(lambda: fail(missing))),
        "from_main_breaks": caught(lambda: from_main(lambda: fail(OSError("disk gone")))),
        "all_ok": all_ok(lambda: rank),
        "all_ok_fails": caught(lambda: all_ok(lambda: fail(missing) if rank == 1 else 0)),
        "all_ok_breaks": caught(
            lambda: all_ok(lambda: (folder / "none").read_text() if rank == 1 else 0)
        ),
        "calls": calls,
    }
    torch.save(result, folder / f"{rank}.pt")

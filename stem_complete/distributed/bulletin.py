"""What each worker last said of itself, where the others can read it when something is wrong.

The place is the TCP store that the process group met at: under torchrun the launcher keeps it,
under Ray rank 0. It works when collectives do not. Yet it, too, may be gone or not answer; so all
that talks to it runs in daemon threads, and nobody waits for them longer than a few seconds.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from stem_complete.distributed.context import WorkerContext

CONNECT_TIMEOUT = timedelta(seconds=10)


class Report(NamedTuple):
    """What a worker says of itself.

    Attributes:
        host: Its host.
        time_s: When it said so, by its host's clock, in seconds since 1970.
        step: Step that it is in.
        phase: What it does there.
        quiet_s: For how long it has been at it.
        place: The Python function that it is in.
        end: How it ended, if it did.
    """

    host: str
    time_s: float
    step: int
    phase: str
    quiet_s: float
    place: str
    end: str = ""


class News(NamedTuple):
    """A worker's last report.

    Attributes:
        report: The report.
        silent: Whether no newer one came although one was due.
    """

    report: Report
    silent: bool


class Bulletin:
    """Publishes this worker's reports, and reads those of the others.

    Args:
        context: This worker, one of several.
        report: Makes a report; called on another thread.
        interval_s: Time between reports.
    """

    def __init__(
        self, context: WorkerContext, report: Callable[[], Report], interval_s: float
    ) -> None:
        self.context, self.report, self.interval_s = context, report, interval_s
        self._main: Report | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="bulletin", daemon=True)
        self._thread.start()

    def news(self) -> dict[int, News]:
        """Last reports of the other workers, by rank; takes two intervals or little more.

        Without those that never reported; of rank 0 only if the store does not answer.
        """
        found: dict[int, News] = {}
        thread = threading.Thread(target=self._survey, args=(found,), daemon=True)
        thread.start()
        thread.join(4 * self.interval_s + 2)
        if not found and self._main is not None:
            # Rank 0 keeps the store under Ray: what it said is here, even if it no longer answers.
            return {0: News(self._main, silent=True)}
        return dict(found)

    def close(self) -> None:
        """Publishes once more and ends."""
        self._closing.set()
        self._thread.join(self.interval_s)

    def _publish(self) -> None:
        with suppress(RuntimeError, OSError):  # the store is gone: nobody is left to tell
            store = _connect()
            while True:
                closing = self._closing.is_set()
                store.set(_key(self.context.rank), json.dumps(self.report()))
                if closing:
                    return
                if self.context.rank != 0:
                    self._main = _read(store, [0]).get(0, self._main)
                self._closing.wait(self.interval_s)

    def _survey(self, found: dict[int, News]) -> None:
        others = [rank for rank in range(self.context.world_size) if rank != self.context.rank]
        with suppress(RuntimeError, OSError):
            store = _connect()
            before = _read(store, others)
            if any(report.end for report in before.values()):
                before = {}  # that is the cause, so do not wait for who else is silent
            else:
                time.sleep(2 * self.interval_s)
            for rank, report in _read(store, others).items():
                found[rank] = News(report, silent=report == before.get(rank))


def describe(news: Mapping[int, News], num_shown: int = 8) -> str:
    """The news in words: first who is gone, then who has been in one place for longest."""
    ranks_by_text: dict[str, list[int]] = {}
    for rank, (report, silent) in sorted(news.items(), key=lambda item: _suspicion(item[1])):
        at = f"step {report.step} ({report.phase}), {report.place}"
        if report.end:
            text = f"{report.end} in {at}, on {report.host}"
        elif silent:
            text = f"last heard of {_age_s(report):.0f} s ago in {at}, on {report.host}"
        else:
            text = f"in {at}, for {report.quiet_s:.0f} s"
        ranks_by_text.setdefault(text, []).append(rank)
    texts = [
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {text}"
        for text, ranks in list(ranks_by_text.items())[:num_shown]
    ]
    if len(ranks_by_text) > num_shown:
        texts.append(f"and {len(ranks_by_text) - num_shown} more")
    return "; ".join(texts)


def _suspicion(news: News) -> tuple[bool, bool, float]:
    """Sorts the likeliest cause first."""
    report, silent = news
    return not report.end, not silent, -(_age_s(report) if silent else report.quiet_s)


def _age_s(report: Report) -> float:
    """Time since a report, as far as the hosts' clocks agree."""
    return max(time.time() - report.time_s, 0.0)


def _connect() -> TCPStore:
    """A connection of its own: one that is shared with the process group may be waiting."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=CONNECT_TIMEOUT)


def _read(store: TCPStore, ranks: Iterable[int]) -> dict[int, Report]:
    present = [rank for rank in ranks if store.check([_key(rank)])]
    texts = store.multi_get([_key(rank) for rank in present]) if present else []
    return {rank: Report(*json.loads(text)) for rank, text in zip(present, texts, strict=True)}


def _key(rank: int) -> str:
    return f"stem_complete/reports/{rank}"

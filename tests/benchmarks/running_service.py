"""The real service: `stem-complete serve` with Ray Serve, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

_READY = re.compile(r"ready after [\d.]+ s at (http://\S+?)/?\s")
_HANGS_S = 600.0


class RunningService:
    """A service that listens at a free port of this machine.

    Args:
        folder: Of its storage and its log.
        arguments: Of the command.
        environment: Beside this process's own.

    Attributes:
        url: Where it is.
        ready_s: Time from its start until it was ready [s].
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / "service.log"
        command = [sys.executable, "-m", "stem_complete", "serve", "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--storage", str(folder / "storage"), *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        began_s = time.monotonic()
        while (ready := _READY.search(self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began_s < _HANGS_S, self.log.read_text()
            time.sleep(0.05)
        self.ready_s, self.url = time.monotonic() - began_s, ready[1]

    def replicas(self) -> list[psutil.Process]:
        """Processes that complete scans."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if "ServeReplica" in " ".join(_command(p))]

    def memory_bytes(self) -> int:
        """Of the command's own process, which takes the requests."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_s(self) -> dict[str, float]:
        """CPU time of the command's own process, of the completers, and of Ray beside [s]."""
        own = psutil.Process(self.process.pid)
        spent = dict.fromkeys(("own", "completers", "ray"), 0.0)
        for process in (own, *own.children(recursive=True)):
            try:
                is_completer = "ServeReplica" in " ".join(process.cmdline())
                times = process.cpu_times()
            except psutil.Error:  # it has ended
                continue
            kind = "own" if process == own else "completers" if is_completer else "ray"
            spent[kind] += times.user + times.system
        return spent

    def stop(self) -> int:
        """Asks it to end, and waits; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_HANGS_S)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

"""The service on this machine: HTTP in this process, completers on Ray Serve beside it.

Serve's own HTTP proxy would copy each body and answer through two more processes, keeps memory of
large answers, and takes seconds to start. It is used where several nodes answer, on a cluster.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import uvicorn

from stem_complete.config.schema import ScalingConfig
from stem_complete.console import say
from stem_complete.errors import ConfigError, TrainingError
from stem_complete.inference.card import read_card
from stem_complete.inference.sources import model_folder
from stem_complete.launch.cluster import ray_cluster
from stem_complete.serving.service.access import TOKEN_HASHES
from stem_complete.serving.service.config import ServiceConfig
from stem_complete.serving.service.logs import log_as_json

LOCAL = ("localhost", "127.0.0.1", "::1")
_OBJECT_STORE_BYTES = 2**30
"""For a few of the largest scans on their way; memory is taken as it is used."""

KEEP_ALIVE_S = 75
"""Time that an idle connection is kept, longer than reverse proxies keep theirs."""


def check_address(host: str, hashes: Sequence[str], *, insecure: bool) -> None:
    """Refuses to listen to others without tokens.

    Raises:
        ConfigError: The address is not this machine's alone, and nobody needs a token.
    """
    if host in LOCAL or hashes or insecure:
        return
    raise ConfigError(
        expected=f"a token for whoever may use the service, as {host} is reached by others",
        found="none",
        where="--host",
        fix="make one with `stem-complete serve --new-token`, and set its hash in "
        f"{TOKEN_HASHES}; or give --insecure, where a reverse proxy asks who it is",
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket at that address, before anything slow is started.

    Raises:
        ConfigError: Another program has it, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen()  # or two programs could have the same one
    except OSError as error:
        opened.close()
        raise ConfigError(
            expected="an address that is free",
            found=(error.strerror or str(error)).lower(),
            where=f"{host}:{port}",
            fix="choose another one with --port or --host, or end the program that has it",
        ) from None
    return opened


def run_service(
    config: ServiceConfig,
    opened: socket.socket,
    *,
    hashes: Sequence[str] = (),
    hosts: Sequence[str] | None = LOCAL,
    address: str | None = None,
    when_ready: Callable[[float], None] = lambda _: None,
) -> None:
    """Serves until SIGTERM or SIGINT, and then finishes what has begun.

    Args:
        config: The service.
        opened: Where it listens.
        hashes: Of tokens.
        hosts: As of `Gate`.
        address: Of a Ray cluster; None: as for `ray_cluster`.
        when_ready: Is told how long it took [s].

    Raises:
        ArtifactError: There is no such model.
        ConfigError: There is no GPU.
        TrainingError: Ray or the completers do not start.
    """
    began_s = time.monotonic()
    if address is None:  # else only the nodes need to have it
        read_card(model_folder(config.model))
    log_as_json()
    # While Ray's processes start; none of it imports Ray.
    warm = threading.Thread(target=import_module, args=["stem_complete.serving.service.app"])
    warm.start()
    local = ScalingConfig(num_workers=config.most_replicas or config.replicas)
    with ray_cluster(local, address, object_store_bytes=_OBJECT_STORE_BYTES):
        warm.join()
        from ray import serve

        # Of this process alone, once the import has set it to INFO.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        from stem_complete.serving.service.app import make_app
        from stem_complete.serving.service.deployments import APP, OnServe, completers

        _check_gpu(config)
        # On a shared cluster there may be others.
        name = APP if address is None else f"{APP}-{secrets.token_hex(4)}"
        serve.start(proxy_location="Disabled", logging_config=_quiet())
        try:
            try:
                handle = serve.run(completers(config), name=name, route_prefix=None)
            except RuntimeError as error:  # in many lines
                raise _not_started(str(error)) from error
            app = make_app(
                OnServe(handle),
                config.storage,
                precision=config.precision,
                limits=config.limits,
                token_hashes=hashes,
                hosts=hosts if not hashes else None,
            )
            server = _Server(
                app, config.limits.connections, lambda: when_ready(time.monotonic() - began_s)
            )
            server.serve_until_asked(opened)
        finally:
            with suppress(Exception):  # the cluster may be gone
                serve.delete(name)


def _check_gpu(config: ServiceConfig) -> None:
    import ray

    if config.use_gpu and not ray.cluster_resources().get("GPU"):
        raise ConfigError(
            expected="a GPU for each completer",
            found="none",
            where="--gpu",
            fix="leave it out, or give the --address of a cluster with GPUs",
        )


def _not_started(told: str) -> TrainingError:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return TrainingError(
        expected="completers that start",
        found=lines[-1][:300] if lines else "none",
        where="Ray Serve",
        fix="see the folder ray/session_latest/logs/serve below TMPDIR or /tmp",
    )


class _Server(uvicorn.Server):
    """uvicorn, which tells when it is ready, and ends in order."""

    def __init__(self, app: Any, connections: int, when_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # ours has request ids
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                limit_concurrency=connections,
            )
        )
        self._app, self._when_ready = app, when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and tells of it."""
        await super().startup(sockets)
        if self.started:
            self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends streams, which uvicorn would wait for, and finishes what has begun."""
        self._app.state.service.stopping.set()
        await super().shutdown(sockets)

    def serve_until_asked(self, opened: socket.socket) -> None:
        """Serves until a signal; uvicorn sends itself that again, which is not to end us."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, lambda *_: None)
        try:
            self.run([opened])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _quiet() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def told(host: str, port: int, seconds: float) -> None:
    """Tells the user where it is."""
    shown = f"[{host}]" if ":" in host else host
    say(f"ready after {seconds:.1f} s at http://{shown}:{port}/")

"""The service on Ray Serve: completers, of which there are as many as requests need.

Scans go to them through Ray's object store, as references; Serve's queues hold these alone. Errors
come back as values, as Ray would wrap them. A completer that dies costs nothing but time: what it
had is given to another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from stem_complete.credentials import Handover
from stem_complete.errors import ConfigError, StemCompleteError
from stem_complete.inference.card import ModelCard, read_card
from stem_complete.inference.completer import (
    CompletedScan,
    Completer,
    Completion,
    load_completer,
)
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.sources import model_folder
from stem_complete.serving.batch.units import AnyJob, R, U
from stem_complete.serving.service.access import TOKEN_HASHES
from stem_complete.serving.service.app import make_app
from stem_complete.serving.service.completing import Desk, DiedError, Done, Task
from stem_complete.serving.service.config import ServiceConfig, token_hashes
from stem_complete.serving.service.logs import LOG, log_as_json
from stem_complete.serving.service.problems import too_busy

APP, COMPLETER = "stem-complete", "completer"
TRIES = 3
"""How often a scan is given to a completer, if these die."""

DRAIN_S = 120.0
"""Time that a completer has to finish what it has."""

UPSCALE_S = 10.0
"""Time of more requests than completers take after which there is another one."""

_LARGE_BYTES = 100_000  # Ray keeps what is smaller in its messages
_DIED = (
    ray.exceptions.RayActorError,
    ray.exceptions.RaySystemError,
    ray.exceptions.ObjectLostError,
)

T = TypeVar("T")
log = logging.getLogger(LOG)


class Sent(NamedTuple):
    """A completion on its way back, without the scan, which whoever asked has.

    Attributes:
        completion: As of `CompletedScan`.
        model: Likewise.
        check: Likewise.
        batch_size: As of `Done`.
        waited_s: Likewise.
    """

    completion: Completion
    model: ModelCard
    check: SelfCheck | None
    batch_size: int
    waited_s: float

    @classmethod
    def of(cls, done: Done) -> Sent:
        """What is sent of it."""
        _, completion, model, check = done.completed
        return cls(completion, model, check, done.batch_size, done.waited_s)

    def done(self, task: Task) -> Done:
        """The same with its scan. Arrays are copied, so that the object store is free again."""
        image, error = self.completion
        own = Completion(image.copy(), None if error is None else error.copy())
        completed = CompletedScan(task.scan, own, self.model, self.check)
        return Done(completed, self.batch_size, self.waited_s)


class CompleterReplica:
    """A process that completes scans.

    Args:
        config: The service.
        credentials: Of whoever started it, for URLs of models.
    """

    def __init__(self, config: ServiceConfig, credentials: Handover) -> None:
        credentials.accept()
        log_as_json()
        self.config = config
        self.desk = Desk(self._load, config.together)
        self._closed = threading.Event()
        if (config.model or "").startswith("models:/") and "@" in (config.model or ""):
            threading.Thread(target=self._follow, name="alias", daemon=True).start()

    async def complete(self, task: Task) -> Sent | Exception:
        """See `Completing`; an error of ours is returned."""
        done = await _or_error(self.desk.complete(task))
        return done if isinstance(done, Exception) else Sent.of(done)

    async def work(self, job: AnyJob[U, R], parcel: tuple[U, ...]) -> list[R] | Exception:
        """Likewise."""
        return await _or_error(self.desk.work(job, parcel))

    async def card(self) -> ModelCard:
        """See `Completing`."""
        return await self.desk.card()

    def check_health(self) -> None:
        """Tells Serve to replace this process, if a batch does not end."""
        if self.desk.busy_s > self.config.stuck_s:
            raise RuntimeError(f"a batch takes longer than {self.config.stuck_s:g} s")

    async def close(self) -> None:
        """Finishes what has begun, and follows no alias any more."""
        self._closed.set()
        await self.desk.close()

    def _load(self, folder: Path | None = None) -> Completer:
        config = self.config
        return load_completer(folder or config.model, config.device, precision=config.precision)

    def _follow(self) -> None:
        """Takes the version that the alias leads to, once it is fetched."""
        while not self._closed.wait(self.config.poll_model_s):
            try:
                folder = model_folder(self.config.model)
                if (card := read_card(folder)) != self.desk.completer.card:
                    self.desk.exchange(partial(self._load, folder))
                    fields = {"sha256": card.weights_sha256}
                    log.warning("another model", extra={"fields": fields})
            except (StemCompleteError, OSError) as error:  # the server may be away for a while
                log.warning("alias", extra={"fields": {"error": str(error)}})


async def _or_error(work: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await work
    except (StemCompleteError, OSError) as error:
        return error


def completers(config: ServiceConfig) -> Any:
    """The completers as an application of Serve."""
    options: dict[str, Any] = {
        "name": COMPLETER,
        "max_ongoing_requests": config.ongoing,
        "max_queued_requests": config.limits.waiting,
        "ray_actor_options": {
            "num_cpus": 0 if config.use_gpu else config.cpus_per_replica,
            "num_gpus": 1 if config.use_gpu else 0,
        },
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 30.0,
    }
    if config.most_replicas is None:
        options["num_replicas"] = config.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": config.replicas,
            "max_replicas": config.most_replicas,
            "target_ongoing_requests": config.together,
            "upscale_delay_s": UPSCALE_S,
        }
    replica: Any = serve.deployment(CompleterReplica)
    return replica.options(**options).bind(config, Handover())


class OnServe:
    """Completers on Ray Serve, as the application sees them; see `Completing`.

    Args:
        handle: Serve's handle of the completers.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def complete(self, task: Task) -> Done:
        """See `Completing`."""
        is_large = task.scan.intensity.nbytes >= _LARGE_BYTES
        given = await asyncio.to_thread(ray.put, task) if is_large else task
        sent: Sent = await self._asked("complete", given)
        return sent.done(task)

    async def work(self, job: AnyJob[U, R], parcel: tuple[U, ...]) -> list[R]:
        """See `Completing`."""
        found: list[R] = await self._asked("work", job, parcel, is_repeatable=False)
        return found

    async def card(self) -> ModelCard:
        """See `Completing`."""
        card: ModelCard = await self._asked("card")
        return card

    async def _asked(self, method: str, *arguments: Any, is_repeatable: bool = True) -> Any:
        """What a completer answers; another one is asked if it dies.

        Raises:
            Problem: 503, if there is none, or they have too much to do.
            DiedError: One died of what is not to be asked again.
        """
        for left in reversed(range(TRIES)):
            response = getattr(self._handle, method).remote(*arguments)
            try:
                found = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError:
                raise too_busy("completers with less to do", "a full queue", 5) from None
            except DeploymentUnavailableError as error:
                raise too_busy("a completer that starts", "none", 30) from error
            except _DIED as error:
                log.warning("completer died", extra={"fields": {"error": type(error).__name__}})
                if not is_repeatable:
                    raise DiedError from error
                if not left:
                    raise too_busy("a completer that lives", f"{TRIES} that died", 30) from error
                continue
            if isinstance(found, Exception):
                raise found
            return found
        raise AssertionError


def _ingress_app() -> FastAPI:
    """The application in a process of Serve's, on a cluster."""
    log_as_json()
    config = ServiceConfig.model_validate_json(os.environ[_CONFIG])
    handle = serve.get_deployment_handle(COMPLETER, app_name=serve.get_replica_context().app_name)
    return make_app(
        OnServe(handle),
        config.storage,
        precision=config.precision,
        limits=config.limits,
        token_hashes=token_hashes(),
    )


_CONFIG = "STEM_COMPLETE_SERVICE"


@serve.ingress(_ingress_app)
class Ingress:
    """Takes requests on a cluster.

    Args:
        completer: Serve's handle of the completers, which it asks for itself.
    """

    def __init__(self, completer: Any) -> None:
        self.completer = completer


def cluster_app(arguments: dict[str, Any]) -> Any:
    """The whole service, for `serve deploy` and KubeRay.

    Args:
        arguments: Of `ServiceConfig`.

    Raises:
        ValidationError: They make no sense.
        ConfigError: Nobody would need a token.
    """
    config = ServiceConfig.model_validate(arguments)
    if not (config.insecure or token_hashes()):
        raise ConfigError(
            expected=f"hashes of tokens in {TOKEN_HASHES}",
            found="none",
            where="the service",
            fix="make a token with `stem-complete serve --new-token`, or set `insecure: true` "
            "where a proxy asks who it is",
        )
    ingress: Any = serve.deployment(Ingress)
    environment = {_CONFIG: config.model_dump_json()}
    return ingress.options(
        name="ingress",
        max_ongoing_requests=4 * config.limits.waiting,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": environment}},
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
    ).bind(completers(config))

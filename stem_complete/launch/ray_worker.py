"""Body of a Ray Train worker."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchConfig

from stem_complete.config import Config, validate_config
from stem_complete.distributed import WorkerContext, gather_objects
from stem_complete.errors import CollectiveError, ConfigError, StemCompleteError, TrainingError
from stem_complete.launch.mailbox import MailboxHandler, MailboxRecorder, poll_in_background
from stem_complete.launch.messages import GroupStarted
from stem_complete.launch.recording import recording
from stem_complete.storage.claim import ClaimLostError
from stem_complete.storage.paths import StorageError
from stem_complete.training import StopRequest, train

PREEMPTION_POLL_S = 1.0

GRACE_S = 120.0
"""Time that a worker has to stop with a checkpoint once it got SIGTERM."""

LINGER_S = 5.0
"""Time that Ray has to collect the worker's result before the process ends and frees its place."""

_stop, _stopped = StopRequest(), threading.Event()
"""The wish to stop this process's run, and whether the run has stopped."""


class PreemptibleTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's torch backend, with workers that take SIGTERM as a wish to stop with a checkpoint."""

    @property
    def backend_cls(self) -> type:
        """Backend that sets the handler once the process group exists."""
        backend: type = super().backend_cls

        class Backend(backend):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                super().on_start(worker_group, backend_config)
                worker_group.execute(_take_sigterm)

        return Backend


def _take_sigterm() -> None:
    # Ray calls this on the process's main thread, where alone handlers can be set, and trains on
    # another. Its own handler would end the process at once.
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _stop.on_signal(number, frame)
    threading.Thread(target=_end_process, name="sigterm", daemon=True).start()


def _end_process() -> None:
    _stopped.wait(GRACE_S)
    time.sleep(LINGER_S)
    os._exit(128 + signal.SIGTERM)


def train_worker(arguments: dict[str, Any]) -> tuple[Any, ...] | StemCompleteError:
    """Trains; returns a `TrainingResult` as a tuple, or an error that a restart would not cure."""
    arguments["credentials"].accept()
    config = validate_config(arguments["config"], where="the config that the driver sent")
    mailbox = arguments["mailbox"]
    context = _context(config)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(MailboxHandler(mailbox, context.rank))
    _watch_for_preemption()
    if context.is_main:
        poll_in_background(mailbox, _stop)
    try:
        with recording(
            context, arguments["tracked"], partial(MailboxRecorder, mailbox)
        ) as recorder:
            hosts = gather_objects(socket.gethostname())
            if context.is_main:
                mailbox.put.remote(GroupStarted(context.world_size, hosts))
            result = train(
                config,
                context,
                recorder=recorder,
                stop=_stop,
                claim=arguments["claim"],
                build_task=arguments["build_task"],
            )
            return tuple(result)
    except CollectiveError:
        raise
    except (ClaimLostError, ConfigError, StorageError, TrainingError) as error:
        return error
    finally:
        _stopped.set()


def _context(config: Config) -> WorkerContext:
    """This worker's place in its group, and its device."""
    if not config.scaling.use_gpu:
        torch.set_num_threads(config.scaling.cpus_per_worker)
    group = ray.train.get_context()
    # Ray knows which of a node's GPUs it gave to this worker.
    device = ray.train.torch.get_device() if config.scaling.use_gpu else torch.device("cpu")
    return WorkerContext(
        group.get_world_rank(), group.get_world_size(), device, group.get_local_rank()
    )


def _watch_for_preemption() -> None:
    """Stops the run when Ray says that a node of the group will be taken away."""

    def watch() -> None:
        # Every worker asks, as Ray answers all of them together.
        while (info := ray.train.get_preemption_info()) is None:
            time.sleep(PREEMPTION_POLL_S)
        _stop(f"ranks {info.preempted_ranks} are on nodes about to be taken away")

    threading.Thread(target=watch, name="preemption", daemon=True).start()

"""A Ray Train worker group: the only training module that imports ray."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from stem_complete.config import Config, validate_config
from stem_complete.console import waiting
from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError, StemCompleteError, TrainingError
from stem_complete.launch.mailbox import Mailbox, MailboxHandler, MailboxRecorder, progress_from
from stem_complete.tracking import MlflowRecorder, TrackedRun
from stem_complete.training import Recorder, Recorders, TrainingResult, train

RAY_FOLDER = "ray"
"""Where Ray keeps what it knows of a run, in the run's folder."""


def train_on_ray(config: Config, tracked: TrackedRun | None) -> TrainingResult:
    """Trains on a Ray Train worker group: on the cluster of this job, or on a local one."""
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    import ray.train.torch

    with _ray_cluster(config):
        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        trainer = ray.train.torch.TorchTrainer(
            _train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "tracked": tracked,
                "mailbox": mailbox,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.scaling.num_workers,
                use_gpu=config.scaling.use_gpu,
                resources_per_worker={"CPU": config.scaling.cpus_per_worker}
                | ({"GPU": 1} if config.scaling.use_gpu else {}),
            ),
            torch_config=ray.train.torch.TorchConfig(
                backend="nccl" if config.scaling.use_gpu else "gloo"
            ),
            run_config=ray.train.RunConfig(
                name=RAY_FOLDER,
                storage_path=str(config.run_folder),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                failure_config=ray.train.FailureConfig(
                    max_failures=config.scaling.max_failures, controller_failure_limit=3
                ),
            ),
        )
        with progress_from(mailbox, config), _interruptible():
            try:
                outcome = trainer.fit().return_value
            except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
                raise TrainingError(
                    expected="workers that finish",
                    found=_last_line(error),
                    where=config.name,
                    fix="see Ray's logs of the workers; started again, it goes on from the last "
                    "checkpoint",
                ) from error
    if isinstance(outcome, StemCompleteError):
        raise outcome
    return TrainingResult(*outcome)


def _train_worker(arguments: dict[str, Any]) -> tuple[Any, ...] | StemCompleteError:
    """Body of a Ray Train worker."""
    import ray.train.torch

    config = validate_config(arguments["config"], where="the config that the driver sent")
    if not config.scaling.use_gpu:
        torch.set_num_threads(config.scaling.cpus_per_worker)
    group = ray.train.get_context()
    # Ray knows which of a node's GPUs it gave to this worker.
    device = ray.train.torch.get_device() if config.scaling.use_gpu else torch.device("cpu")
    context = WorkerContext(group.get_world_rank(), group.get_world_size(), device)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(MailboxHandler(arguments["mailbox"], context.rank))
    recorders: list[Recorder] = []
    if context.is_main:
        recorders.append(MailboxRecorder(arguments["mailbox"]))
        if arguments["tracked"] is not None:
            recorders.append(MlflowRecorder(arguments["tracked"], config.run_folder))
    recorder = Recorders(recorders)

    def report(metrics: Mapping[str, float], folder: Path | None) -> None:
        if folder is None:
            ray.train.report(dict(metrics))
            return
        # The checkpoint is in the run's folder already, and is found there. Ray gets a pointer: it
        # refuses to resume a run of which it knows a checkpoint that we have removed since.
        with TemporaryDirectory() as pointer:
            (Path(pointer) / "checkpoint.json").write_text(json.dumps({"folder": str(folder)}))
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(pointer))

    try:
        return tuple(train(config, context, recorder=recorder, report_checkpoint=report))
    except (ConfigError, TrainingError) as error:
        # The same on every worker, and no better the next time: the driver must not retry.
        return error
    finally:
        recorder.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes Ctrl-C a KeyboardInterrupt again, which Ray Train makes an exit without a word."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _ray_cluster(config: Config) -> Iterator[None]:
    """Joins the cluster that this job was submitted to, or starts one here for the time being."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        scaling = config.scaling
        # One machine may have fewer cores than workers: they then share them.
        needed = scaling.num_workers * scaling.cpus_per_worker
        arguments |= {"address": "local", "num_cpus": max(os.cpu_count() or 1, needed)}
    with waiting("starting Ray"):
        ray.init(**arguments)
    try:
        yield
    finally:
        ray.shutdown()


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]

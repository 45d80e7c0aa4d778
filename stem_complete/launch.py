"""Config -> run: on Ray Train, or in this process. The only training module that imports ray."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from stem_complete.config import Config, expand_sweep, validate_config
from stem_complete.console import TrainingProgress, heading, say, waiting
from stem_complete.data.store import MicrographStore
from stem_complete.distributed import current_context, torchrun_context
from stem_complete.errors import ConfigError, StemCompleteError, TrainingError
from stem_complete.inference import export_checkpoint
from stem_complete.tracking import (
    MlflowRecorder,
    TrackedRun,
    default_uri,
    finish_run,
    open_run,
    ui_command,
)
from stem_complete.training import Recorder, Recorders, TrainingResult, train

if TYPE_CHECKING:
    import ray

MODEL_FOLDER = "model"
POLL_S = 0.5

_Message = str | tuple[int, dict[str, float]]


class Outcome(NamedTuple):
    """A finished run.

    Attributes:
        config: What was run, with absolute paths.
        result: Steps, metrics, checkpoint.
        model: Folder of the exported model.
        tracking_uri: Where its curves are; None if tracking was off.
    """

    config: Config
    result: TrainingResult
    model: Path
    tracking_uri: str | None


def launch(config: Config, *, local: bool = False) -> list[Outcome]:
    """Trains what `config` describes, from the last checkpoint if there is one, and exports it.

    Args:
        config: A run, or a sweep of runs, which are trained one after the other.
        local: In this process, or in those that torchrun started, instead of on Ray.

    Raises:
        StemCompleteError: The config cannot be run, or training failed.
    """
    config = _with_absolute_paths(config)
    main = int(os.environ.get("RANK", 0)) == 0
    if main:
        say(f"run {config.name} in {config.run_folder}\n")
        say(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    runs = expand_sweep(config)
    for run in runs:
        _check(run)

    uri = _tracking_uri(config)
    parent = open_run(config, uri) if config.sweep is not None and uri and main else None
    outcomes = []
    status: Any = "FAILED"
    try:
        for run in runs:
            outcome = _launch_one(run, uri, parent, local=local, main=main)
            outcomes.append(outcome)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if parent is not None:
            finish_run(parent, status)
    return outcomes


def _launch_one(
    config: Config, uri: str | None, parent: TrackedRun | None, *, local: bool, main: bool
) -> Outcome:
    tracked = None
    if main:
        heading(f"training {config.name}: {config.training.steps} steps")
        config.run_folder.mkdir(parents=True, exist_ok=True)
        values = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (config.run_folder / "config.yaml").write_text(values)
        if uri is not None:
            parent_id = parent.run_id if parent else None
            with waiting("opening the MLflow run"):
                tracked = open_run(config, uri, parent_run_id=parent_id)
    status: Any = "FAILED"
    try:
        result = (_train_in_process if local else _train_on_ray)(config, tracked)
        model = config.run_folder / MODEL_FOLDER
        if main:
            with waiting("exporting the model"):
                export_checkpoint(config.run_folder, model)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if tracked is not None:
            finish_run(tracked, status)
    if main:
        say(f"model: {model}")
        if uri is not None:
            say(f"curves: {ui_command(uri)}")
    return Outcome(config, result, model, uri)


def _train_in_process(config: Config, tracked: TrackedRun | None) -> TrainingResult:
    """Trains in this process, or as one worker of those that torchrun started."""
    with torchrun_context(use_gpu=config.scaling.use_gpu) as context:
        recorders: list[Recorder] = []
        if context.is_main:
            recorders.append(_progress(config))
            if tracked is not None:
                recorders.append(MlflowRecorder(tracked, config.run_folder))
        recorder = Recorders(recorders)
        try:
            return train(config, context, recorder=recorder)
        finally:
            recorder.close()


def _train_on_ray(config: Config, tracked: TrackedRun | None) -> TrainingResult:
    """Trains on a Ray Train worker group: on the cluster of this job, or on a local one."""
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    import ray.train.torch

    with _ray_cluster(config):
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
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
                # Ray's own files then lie in the run's folder, beside the checkpoints.
                name=config.name,
                storage_path=str(config.storage),
                failure_config=ray.train.FailureConfig(
                    max_failures=config.scaling.max_failures, controller_failure_limit=3
                ),
            ),
        )
        with _progress_from(mailbox, config):
            try:
                outcome = trainer.fit().return_value
            except ray.train.TrainingFailedError as error:
                raise TrainingError(
                    expected="workers that finish",
                    found=_last_line(error),
                    where=config.name,
                    fix="see the workers' log above; start it again to go on from the last "
                    "checkpoint",
                ) from error
    if isinstance(outcome, StemCompleteError):
        raise outcome
    return TrainingResult(*outcome)


def _train_worker(arguments: dict[str, Any]) -> tuple[Any, ...] | StemCompleteError:
    """Body of a Ray Train worker."""
    import ray.train

    config = validate_config(arguments["config"], where="the config that the driver sent")
    if not config.scaling.use_gpu:
        torch.set_num_threads(config.scaling.cpus_per_worker)
    context = current_context(use_gpu=config.scaling.use_gpu)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(_MailboxHandler(arguments["mailbox"], context.rank))
    recorders: list[Recorder] = []
    if context.is_main:
        recorders.append(_MailboxRecorder(arguments["mailbox"]))
        if arguments["tracked"] is not None:
            recorders.append(MlflowRecorder(arguments["tracked"], config.run_folder))
    recorder = Recorders(recorders)

    def report(metrics: Mapping[str, float], folder: Path | None) -> None:
        # The run folder is shared and the checkpoint already in it: Ray only takes note of it.
        ray.train.report(
            dict(metrics),
            checkpoint=ray.train.Checkpoint.from_directory(folder) if folder else None,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    try:
        return tuple(train(config, context, recorder=recorder, report_checkpoint=report))
    except (ConfigError, TrainingError) as error:
        # The same on every worker, and no better the next time: the driver must not retry.
        return error
    finally:
        recorder.close()


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


class _Mailbox:
    """A Ray actor that carries metrics and warnings from the workers to the driver."""

    def __init__(self) -> None:
        self.messages: list[_Message] = []

    def put(self, message: _Message) -> None:
        self.messages.append(message)

    def take(self) -> list[_Message]:
        messages, self.messages = self.messages, []
        return messages


class _MailboxRecorder:
    """Recorder on the first worker; never waits for the driver."""

    def __init__(self, mailbox: ray.actor.ActorHandle) -> None:
        self.mailbox = mailbox

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.mailbox.put.remote((step, dict(values)))

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Pictures go to MLflow only."""

    def close(self) -> None:
        """Nothing is kept back."""


class _MailboxHandler(logging.Handler):
    """Sends a worker's warnings to the driver; what else it prints stays in Ray's logs."""

    def __init__(self, mailbox: ray.actor.ActorHandle, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.mailbox, self.rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        text = f"worker {self.rank}: {record.levelname.lower()}: {record.getMessage()}"
        self.mailbox.put.remote(text)


@contextmanager
def _progress_from(mailbox: ray.actor.ActorHandle, config: Config) -> Iterator[None]:
    """Shows on the driver what arrives in the mailbox."""
    import ray

    progress = _progress(config)
    stop = threading.Event()

    def show() -> None:
        for message in ray.get(mailbox.take.remote()):
            if isinstance(message, str):
                say(message)
            else:
                progress.scalars(*message)

    def poll() -> None:
        while not stop.wait(POLL_S):
            show()

    thread = threading.Thread(target=poll, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show()
        progress.close()


def _progress(config: Config) -> TrainingProgress:
    return TrainingProgress(config.name, config.training.steps, config.training.batch_size)


def _tracking_uri(config: Config) -> str | None:
    if not config.tracking.enabled:
        return None
    return config.tracking.uri or default_uri(config.storage)


def _with_absolute_paths(config: Config) -> Config:
    """Workers run in other folders; and a submitted job runs in a copy that is thrown away."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    for key, path in (("storage", config.storage), ("data.store", config.data.store)):
        if submitted and not path.is_absolute():
            raise ConfigError(
                expected=f"an absolute path for {key} in a submitted job",
                found=str(path),
                where=config.name,
                fix=f"add {key}=/a/folder/that/all/nodes/see",
            )
    data = config.data.model_copy(update={"store": config.data.store.absolute()})
    return config.model_copy(update={"storage": config.storage.absolute(), "data": data})


def _check(config: Config) -> None:
    """Fails before any worker starts where it can be known."""
    store = MicrographStore.open(config.data.store)
    if not len(store.indices("train")):
        raise ConfigError(
            expected="micrographs in the store's training split",
            found="none",
            where=config.data.store,
            fix="ingest more images with `stem-complete ingest`",
        )
    if config.scaling.use_gpu and not torch.cuda.is_available() and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            expected="a CUDA device (scaling.use_gpu is true)",
            found="none",
            where=config.name,
            fix="add scaling.use_gpu=false",
        )


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]

"""Config -> finished runs: checks, tracking, training, export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from stem_complete.config import Config, expand_sweep
from stem_complete.console import ProgressBar, TrainingProgress, heading, say, waiting
from stem_complete.data.store import MicrographStore
from stem_complete.distributed import torchrun_context
from stem_complete.errors import ConfigError
from stem_complete.inference import MODEL_FOLDER, export_checkpoint
from stem_complete.launch.ray_group import train_on_ray
from stem_complete.tracking import (
    MlflowRecorder,
    TrackedRun,
    default_uri,
    finish_run,
    open_run,
    ui_command,
)
from stem_complete.training import Recorder, Recorders, TrainingResult, train
from stem_complete.training.checkpoint import checkpoint_folders


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
            # Without a checkpoint the run begins anew, and so must its curves.
            resume = bool(checkpoint_folders(config.run_folder))
            with waiting("opening the MLflow run"):
                tracked = open_run(config, uri, parent_run_id=parent_id, resume=resume)
    status: Any = "FAILED"
    try:
        result = (_train_in_process if local else train_on_ray)(config, tracked)
        model = config.run_folder / MODEL_FOLDER
        if main:
            with ProgressBar("exporting the model", 0) as bar:
                export_checkpoint(config.run_folder, model, progress=bar.show)
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
            recorders.append(
                TrainingProgress(config.name, config.training.steps, config.training.batch_size)
            )
            if tracked is not None:
                recorders.append(MlflowRecorder(tracked, config.run_folder))
        recorder = Recorders(recorders)
        try:
            return train(config, context, recorder=recorder)
        finally:
            recorder.close()


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

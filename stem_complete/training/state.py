"""All of a run that must survive a crash."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stem_complete.config import Config, validate_config
from stem_complete.data.store import MicrographStore
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.models import freeze_mean_norm, initialise
from stem_complete.training.checkpoint_folder import Checkpoint
from stem_complete.training.schedule import Stage
from stem_complete.training.task import CompletionTask, build_task

NUM_INITIALISATION_EXAMPLES = 4


class TrainingState:
    """Task, optimizer and step. Data order and noise need no state: they follow from the step.

    Args:
        config: The run.
        store: Its micrographs.
        device: Where it trains.
        fresh: Whether the run begins; the data-dependent initialisation is left out if not, as the
            state is about to be loaded.
    """

    def __init__(
        self, config: Config, store: MicrographStore, device: torch.device, *, fresh: bool
    ) -> None:
        self.task: CompletionTask = build_task(config, (store.crop_size, store.crop_size))
        self.task.to(device)
        self.step = 0
        if fresh and config.model.weight_norm_init:
            self._initialise(store, device)
        self.optimizer = build_optimizer(self.task, config)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """All of it but the step, as tensors by name: `task` and Adam's moments as `optimizer`."""
        moments = {
            f"{name}.{kind}": value
            for name, parameter in self.task.named_parameters()
            for kind, value in self.optimizer.state[parameter].items()
        }
        return {"task": self.task.state_dict(), "optimizer": moments}

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes over what `state_dict` gave, in this network's memory formats.

        Raises:
            ArtifactError: The checkpoint is of another network.
        """
        saved = checkpoint.state
        own = self.state_dict()["optimizer"]
        try:
            self.task.load_state_dict(saved["task"])
            for name, value in own.items():
                value.copy_(saved["optimizer"][name])
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                expected="the state of the network in its config",
                found=str(error),
                where=checkpoint.folder,
            ) from None
        self.step = checkpoint.step

    def tensors(self) -> list[Tensor]:
        """Every tensor that must be the same on all workers, in a fixed order."""
        moments = [
            value
            for parameter in self.task.parameters()
            for value in self.optimizer.state[parameter].values()
        ]
        return [*self.task.parameters(), *self.task.buffers(), *moments]

    def enter(self, stage: Stage) -> None:
        """Sets what the schedule says."""
        generator, trainer = self.optimizer.param_groups
        generator["lr"], trainer["lr"] = stage.learning_rate, stage.trainer_learning_rate
        for group in (generator, trainer):
            group["betas"] = (stage.beta1, group["betas"][1])
        if stage.mean_norm_frozen:
            freeze_mean_norm(self.task.network)

    def _initialise(self, store: MicrographStore, device: torch.device) -> None:
        """Data-dependent initialisation, on the same examples on every worker."""
        crops = store.indices("train")[:NUM_INITIALISATION_EXAMPLES]
        images = torch.from_numpy(store.read(crops)).unsqueeze(1).to(device)
        batch = self.task.simulator(images, 0, torch.arange(len(crops), device=device))
        # A network that corrects a first completion begins with hardly any correction.
        output_std = 0.01 if self.task.encoding == "filled" else 1.0
        initialise(self.task.network, self.task.encode(batch.scan).x, output_std=output_std)


def build_optimizer(task: CompletionTask, config: Config) -> torch.optim.Adam:
    """Adam with one group for the generators and one for the trainer, whose rate is a multiple."""
    settings = config.optimizer
    optimizer = torch.optim.Adam(
        [
            {"params": list(task.network.generator.parameters())},
            {"params": list(task.network.trainer.parameters())},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,  # the fused step takes `found_inf`: it skips a bad step without host sync
    )
    # Adam would do this in its first step; a checkpoint is loaded before that.
    for parameter in task.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def optimizer_step(optimizer: torch.optim.Adam, usable: Tensor) -> None:
    """Takes a step if `usable`, [], and leaves weights and Adam's moments as they are if not."""
    optimizer.found_inf = (~usable).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    """What the sequence of examples and the shape of the state depend on must not have changed.

    Raises:
        ConfigError: It has.
    """
    before = validate_config(checkpoint.config, where=str(checkpoint.folder))
    now, then = _identity(config), _identity(before)
    for key, value in then.items():
        if now[key] != value:
            raise ConfigError(
                expected=f"{key} = {value}, as this run began with",
                found=str(now[key]),
                where=checkpoint.folder,
                fix="change it back, or start a new run with another name",
            )


def _identity(config: Config) -> dict[str, Any]:
    """What makes a run this run, by key."""
    sections = {"model": config.model, "loss": config.loss}
    return {
        "training.seed": config.training.seed,
        "training.batch_size": config.batch_size,
        **{
            f"{name}.{key}": value
            for name, section in sections.items()
            for key, value in section.model_dump(mode="json").items()
        },
    }

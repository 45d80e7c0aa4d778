"""All of a run that must survive a crash."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stem_complete.config import Config
from stem_complete.data.store import MicrographStore
from stem_complete.errors import ConfigError
from stem_complete.models import freeze_mean_norm, initialise
from stem_complete.training.checkpoint import Checkpoint
from stem_complete.training.schedule import Stage
from stem_complete.training.task import CompletionTask, build_task

NUM_INITIALISATION_EXAMPLES = 4


class TrainingState:
    """Task, optimizer and step. Data order and noise need no state: they follow from the step.

    Args:
        config: The run.
        store: Its micrographs.
        device: Where it trains.
        checkpoint: Where it goes on from; None starts with fresh weights.

    Raises:
        ConfigError: The config does not fit the checkpoint.
    """

    def __init__(
        self,
        config: Config,
        store: MicrographStore,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.task: CompletionTask = build_task(config, (store.crop_size, store.crop_size))
        self.task.to(device)
        self.step = 0
        if checkpoint is None and config.model.weight_norm_init:
            self._initialise(store, device)
        self.optimizer = build_optimizer(self.task, config)
        if checkpoint is not None:
            _check_same_run(config, checkpoint)
            self.task.load_state_dict(checkpoint.state["task"])
            self.optimizer.load_state_dict(checkpoint.state["optimizer"])
            self.step = checkpoint.step

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for `torch.save`."""
        return {"task": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}

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
    return torch.optim.Adam(
        [
            {"params": list(task.network.generator.parameters())},
            {"params": list(task.network.trainer.parameters())},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,  # the fused step takes `found_inf`: it skips a bad step without host sync
    )


def optimizer_step(optimizer: torch.optim.Adam, usable: Tensor) -> None:
    """Takes a step if `usable`, [], and leaves weights and Adam's moments as they are if not."""
    optimizer.found_inf = (~usable).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def _check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    """What the sequence of examples and the shape of the state depend on must not have changed."""
    now, then = config.model_dump(mode="json"), checkpoint.config
    for section, key in (
        ("training", "seed"),
        ("training", "batch_size"),
        *(("model", key) for key in now["model"]),
        *(("loss", key) for key in now["loss"]),
    ):
        if now[section][key] != then.get(section, {}).get(key, now[section][key]):
            raise ConfigError(
                expected=f"{section}.{key} = {then[section][key]}, as this run began with",
                found=str(now[section][key]),
                where=checkpoint.folder,
                fix="change it back, or start a new run with another name",
            )

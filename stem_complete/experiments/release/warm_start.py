"""Training state out of a released model: what a new slice of its training begins with.

The model holds the averaged generator with its weight norm folded into plain kernels. Beside it, a
file of 60 kB has what training needs besides: the trainer, ALRC's moments and the length |v| of
each kernel. Adam's moments are not kept and begin at 0: this is a warm start, no exact resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from stem_complete.config import Config
from stem_complete.files import write_atomically
from stem_complete.inference.card import read_card
from stem_complete.training import Checkpoint, Checkpoints, CompletionTask, build_task
from stem_complete.training.start import unfolded, weight_norm_layers
from stem_complete.training.state import averaged_weights
from stem_complete.vocabulary import WEIGHTS_FILE

_GENERATOR = "network.generator."
_LENGTH = ".length"


def save_rest(checkpoint: Checkpoint, config: Config, file: Path) -> None:
    """Writes what of a checkpoint's averaged state a model folder does not hold."""
    task = build_task(config, _crop_shape(config))
    average = averaged_weights(
        checkpoint.state["average"], checkpoint.step, config.training.weight_average
    )
    task.load_state_dict(dict(checkpoint.state["task"]) | average)
    rest = {n: value for n, value in task.state_dict().items() if not n.startswith(_GENERATOR)}
    lengths = {
        f"{_GENERATOR}{name}{_LENGTH}": torch.linalg.vector_norm(layer.v, dim=layer.norm_dims)
        for name, layer in weight_norm_layers(task.network.generator)
    }
    write_atomically(file, save({n: t.detach().contiguous() for n, t in (rest | lengths).items()}))


def write_start(config: Config, model: Path, rest: Path) -> int:
    """Writes the first checkpoint of a run that goes on from a released model; returns its step.

    Args:
        config: The run; its network is that of the model.
        model: Folder of the model.
        rest: What `save_rest` wrote.
    """
    task = build_task(config, _crop_shape(config))
    task.load_state_dict(start_state(task, load_file(model / WEIGHTS_FILE), load_file(rest)))
    weights = {name: value.detach() for name, value in task.named_parameters()}
    step = int(read_card(model).metrics["train/steps"] or 0)
    state = {"task": task.state_dict(), "optimizer": _fresh_moments(weights)}
    if (decay := config.training.weight_average) is not None:
        # The running sum of as many steps with these weights.
        state["average"] = {name: value * (1 - decay**step) for name, value in weights.items()}
    with closing(Checkpoints(config.run_folder)) as checkpoints:
        checkpoints.save(step, state, config=config.model_dump(mode="json"), metrics={}, score=None)
        checkpoints.wait()
    return step


def start_state(
    task: CompletionTask, folded: Mapping[str, Tensor], rest: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """State of the task whose generator, folded, is the model's."""
    state = {name: value for name, value in rest.items() if not name.endswith(_LENGTH)}
    lengths = {
        name.removeprefix(_GENERATOR).removesuffix(_LENGTH): value
        for name, value in rest.items()
        if name.endswith(_LENGTH)
    }
    generator = unfolded(task.network.generator, folded, lengths)
    return state | {f"{_GENERATOR}{name}": value for name, value in generator.items()}


def _fresh_moments(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    moments: dict[str, Tensor] = {}
    for name, value in weights.items():
        moments |= {f"{name}.{kind}": torch.zeros_like(value) for kind in ("exp_avg", "exp_avg_sq")}
        moments[f"{name}.step"] = torch.zeros(())
    return moments


def _crop_shape(config: Config) -> tuple[int, int]:
    size = (config.augmentation and config.augmentation.crop_px) or 512
    return size, size

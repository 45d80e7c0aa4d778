"""The weights of a model as those of a network that is trained: fine-tuning.

A model has its weight norm folded into plain kernels. Training needs their direction and length
apart (Salimans and Kingma 2016, eq. 2); the length |v| of a direction changes no completion, but
the longer it is the less a step turns it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import stem_complete
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.models import TwoStageGenerator, WeightNormConv2d
from stem_complete.vocabulary import RELEASED, WEIGHTS_FILE

TRAINED_LENGTH = 0.15
"""Length of a direction after long training, in units of the root of its number of weights."""


def start_folder(start: str) -> Path:
    """The folder of `training.start`; the released model's is in each node's own package."""
    return Path(stem_complete.__file__).parent / RELEASED if start == RELEASED else Path(start)


def load_start(generator: TwoStageGenerator, start: str) -> None:
    """Gives a generator the weights of a model.

    Raises:
        ArtifactError: The model cannot be read.
        ConfigError: It is of another architecture, or has norms.
    """
    folder = start_folder(start)
    try:
        folded = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            expected="a model folder",
            found=f"{WEIGHTS_FILE} cannot be read ({error})",
            where=folder,
            fix="give `released`, or the `model` folder of a finished run, as training.start",
        ) from None
    norms = [layer.mean_norm or layer.norm for _, layer in weight_norm_layers(generator)]
    if any(norm is not None for norm in norms):
        raise ConfigError(
            expected="an architecture without norms for training.start",
            found="some, which a model has folded into its kernels and biases",
            where="training.start",
            fix="resume the run's own checkpoint instead",
        )
    try:
        generator.load_state_dict(unfolded(generator, folded))
    except (KeyError, RuntimeError) as error:
        raise ConfigError(
            expected="a model of the config's architecture and encoding",
            found=str(error).splitlines()[-1].strip(),
            where=folder,
            fix="train with the config that the model was trained with (see its model.json)",
        ) from None


def unfolded(
    generator: TwoStageGenerator,
    folded: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """State of a generator whose folded weights are `folded`.

    Args:
        generator: The generator; it is not changed.
        folded: Weights of a model.
        lengths: Length of each layer's directions, by the layer's name; None: as after training.
    """
    state: dict[str, Tensor] = {}
    for name, layer in weight_norm_layers(generator):
        kernel = folded[f"{name}.0.weight"]
        norm = torch.linalg.vector_norm(kernel, dim=layer.norm_dims)
        length = (
            torch.full_like(norm, TRAINED_LENGTH * (kernel.numel() / norm.numel()) ** 0.5)
            if lengths is None
            else lengths[name]
        )
        scale = length / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        state |= {f"{name}.v": kernel * layer.per_output_channel(scale), f"{name}.g": norm}
        if layer.bias is not None:
            state[f"{name}.bias"] = folded[f"{name}.0.bias"]
    return state


def weight_norm_layers(generator: TwoStageGenerator) -> Iterator[tuple[str, WeightNormConv2d]]:
    """The layers of a generator by name."""
    for name, layer in generator.named_modules():
        if isinstance(layer, WeightNormConv2d):
            yield name, layer

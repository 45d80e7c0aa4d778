"""The task of this package: completing simulated scans of micrographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stem_complete.config import Config, ModelConfig
from stem_complete.data.examples import Examples, check_trainable
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError
from stem_complete.losses import ALRC, half_size, huberise, mean_power
from stem_complete.models import (
    PRESETS,
    TwoStageNetwork,
    build_network,
    commit_statistics,
    freeze_norms,
    initialise,
    pending_statistics,
    to_completion,
)
from stem_complete.scan import (
    CORRECTED,
    NUM_CHANNELS,
    NetworkInput,
    PartialScan,
    ScanSimulator,
    SimulatedBatch,
    encode,
    fill_sigma_px,
)
from stem_complete.training.loss_clipping import alrc_of
from stem_complete.training.schedule import RUNNING_MEANS, TRAINER
from stem_complete.training.simulation import build_simulator
from stem_complete.training.start import load_start
from stem_complete.training.task import Picture, Task, TaskOutput, Validated, device_of
from stem_complete.vocabulary import Encoding


class Completed(NamedTuple):
    """Completions in the intensity units of the scan, and the units of their errors.

    Attributes:
        full: `[b, 1, h, w]`.
        half: `[b, 1, h/2, w/2]`.
        unit: Of errors of `full`, in intensity units `[b]`.
        half_unit: Of errors of `half`.
    """

    full: Tensor
    half: Tensor
    unit: Tensor
    half_unit: Tensor


NUM_INITIALISATION_EXAMPLES = 4

_SMALLEST_FIRST_ERROR = 0.05  # in units of the network's output

VALIDATION_SEED = 0
"""Seed of the validation scans' noise: the same for all runs, so that they can be compared."""


class CompletionTask(Task):
    """Completes simulated scans of micrographs and says how wrong the completions are.

    One backward pass of `loss` gives each sub-network its own gradient (ALRC paper, section IV):
    the trainer that of the inner loss, the outer generator that of the outer loss, the inner
    generator that of their sum.

    Examples are micrographs in [-1, 1], [b, 1, h, w].

    Args:
        network: Two-stage generator and trainer.
        simulator: Micrographs -> partial scans to train on.
        validation: Micrographs -> partial scans to validate with.
        encoding: Network input of a partial scan, see `scan.encode`.
        sigma_px: Of the encoding [px].
        weight: Of the errors.
        power: Of the errors: 2 or 4.
        make_alrc: Makes the ALRC of a loss; None clips none.
        huber: Whether losses are Huberised.
        relative: Whether errors are in units of the network's output; "first" are those of the
            first completion's own error.
        bf16: Whether the network's convolutions run in bfloat16 (autocast); weights, statistics and
            losses stay float32.
        weight_norm_init: Whether a new network is initialised from data.
        start: The model whose weights the generator of a new run begins with, see
            `training.start`; None: none.
    """

    loss_names = ("outer", "inner")
    metric_names = ("outer_loss", "inner_loss", "rmse")
    score = "rmse"
    running = (RUNNING_MEANS,)

    def __init__(
        self,
        network: TwoStageNetwork,
        simulator: ScanSimulator,
        validation: ScanSimulator,
        *,
        encoding: Encoding,
        sigma_px: float,
        weight: float,
        power: int = 2,
        make_alrc: Callable[[], ALRC] | None,
        huber: bool = False,
        relative: Literal["first"] | bool = False,
        bf16: bool = False,
        weight_norm_init: bool = True,
        start: str | None = None,
    ) -> None:
        super().__init__(make_alrc)
        self.network = network
        self.simulator, self.validation = simulator, validation
        self.encoding, self.sigma_px = encoding, sigma_px
        self.weight, self.power = weight, power
        self.huber, self.relative = huber, relative
        self.bf16 = bf16
        self.weight_norm_init, self.start = weight_norm_init, start

    def forward(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> TaskOutput:
        """Losses of the completions of `examples`; see `Task.forward`."""
        batch: SimulatedBatch = self.simulator(examples, step, positions)
        losses = self.losses(self.complete(batch), batch.truth)
        # Clipping comes before Huberisation (ALRC paper, section IV).
        clipped = self.alrc(losses)
        final = {k: huberise(loss) for k, loss in clipped.items()} if self.huber else clipped
        return TaskOutput(final["outer"] + final["inner"], losses, clipped)

    def complete(self, batch: SimulatedBatch) -> Completed:
        """Full- and half-size completions."""
        encoded = self.encode(batch.scan)
        encoded_half = encoded.at_half_size()
        # Convolutions on CPUs take two thirds of the time in this memory format.
        x = encoded.x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            full, half = self.network(x)
        units = [encoded.scale.flatten()] * 2
        if self.relative == "first":
            truths = (batch.truth, half_size(batch.truth))
            units = [
                _first_error(each, truth)
                for each, truth in zip((encoded, encoded_half), truths, strict=True)
            ]
        return Completed(
            to_completion(full.float(), encoded), to_completion(half.float(), encoded_half), *units
        )

    def losses(self, completed: Completed, truth: Tensor) -> dict[str, Tensor]:
        """Outer and inner loss of each example, [b]; `truth` is that of the full size."""
        outer = mean_power(completed.full, truth, self.power, self.weight)
        inner = mean_power(completed.half, half_size(truth), self.power, self.weight)
        if self.relative:
            outer = outer / completed.unit**self.power
            inner = inner / completed.half_unit**self.power
        return {"outer": outer, "inner": inner}

    def encode(self, scan: PartialScan) -> NetworkInput:
        """The network's input for partial scans."""
        return encode(scan, self.encoding, sigma_px=self.sigma_px)

    def validate(self, examples: Tensor, positions: Tensor) -> Validated:
        """Losses as measured, unclipped, and the root mean square error on [0, 1].

        The picture has scan, completion and truth side by side.
        """
        batch: SimulatedBatch = self.validation(examples, 0, positions)
        completed = self.complete(batch)
        full, truth = completed.full, batch.truth
        losses = {f"{name}_loss": loss for name, loss in self.losses(completed, truth).items()}
        # On [0, 1] errors are half of those on [-1, 1].
        rmse = mean_power(full, truth, 2).sqrt() / 2
        return Validated({**losses, "rmse": rmse}, _picture(batch, full))

    def picture(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> Picture:
        """Scan, completion and truth of an example that was trained on, side by side."""
        batch: SimulatedBatch = self.simulator(examples, step, positions)
        return _picture(batch, self.complete(batch).full)

    def initialise(self, examples: Examples) -> None:
        """Initialises weight norm from data, and takes over the weights of a model, if it is to."""
        if self.weight_norm_init:
            self._initialise_from(examples)
        if self.start is not None:
            load_start(self.network.generator, self.start)

    def _initialise_from(self, examples: Examples) -> None:
        device = device_of(self)
        crops = examples.indices("train")[:NUM_INITIALISATION_EXAMPLES]
        images = torch.from_numpy(examples.read(crops)).to(device)
        batch = self.simulator(images, 0, torch.arange(len(crops), device=device))
        generator = self.network.generator
        # A network that corrects a first completion begins with hardly any correction. Of one with
        # gates even less would leave the gradient of all other layers to chance.
        corrects = self.encoding in CORRECTED
        initialise(
            self.network,
            self.encode(batch.scan).x,
            output_std=(0.3 if generator.gates else 0.01) if corrects else 1.0,
            branch_std=0.1 if generator.outer.skips else 1.0,
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Both generators and the trainer, whose learning rates differ."""
        generator, trainer = self.network.generator, self.network.trainer
        return {
            "inner_generator": list(generator.inner.parameters()),
            "outer_generator": list(generator.outer.parameters()),
            TRAINER: list(trainer.parameters()),
        }

    def statistics(self) -> dict[str, Tensor]:
        """What ALRC and the norms have accumulated since the last `commit`, to be summed."""
        return super().statistics() | {"norms": pending_statistics(self.network)}

    def commit(self, sums: dict[str, Tensor], usable: Tensor) -> None:
        """Updates moments, and running statistics if `usable`; see `Task.commit`."""
        super().commit(sums, usable)
        commit_statistics(self.network, torch.where(usable, sums["norms"], 0.0))

    def freeze(self, names: frozenset[str]) -> None:
        """Freezes the running means of mean norm, or the running statistics of batch norm."""
        freeze_norms(self.network, RUNNING_MEANS in names)


def _picture(batch: SimulatedBatch, completed: Tensor) -> Picture:
    """Scan, completion and truth of the first example of a batch, side by side."""
    panels = (batch.scan.intensity.nan_to_num(-1.0), completed, batch.truth)
    grey = (torch.cat(panels, dim=3)[0, 0].clamp(-1, 1) + 1) * 127.5
    return grey.round().to(torch.uint8).cpu().numpy()


def _first_error(encoded: NetworkInput, truth: Tensor) -> Tensor:
    """Root mean square error `[b]` of first completions, which are never taken for perfect."""
    square = (encoded.offset - truth).square().mean((1, 2, 3))
    return square.sqrt().maximum(_SMALLEST_FIRST_ERROR * encoded.scale.flatten())


def build_completion(config: Config) -> tuple[CompletionTask, MicrographStore]:
    """The completion task of a config, and the store of micrographs that it trains on.

    Raises:
        ConfigError: Config and store do not fit together, or there is nothing to train on.
        StoreError: The store cannot be read.
    """
    store = MicrographStore(config.data.store)
    check_trainable(store, store.path)
    return build_task(config, (store.crop_size, store.crop_size)), store


def build_task(config: Config, crop_shape: tuple[int, int]) -> CompletionTask:
    """The completion task that a config describes, on the CPU, with weights drawn from its seed.

    Raises:
        ConfigError: Its sizes do not fit together, or micrographs of `crop_shape`.
    """
    loss = config.loss
    network, stride = _build_network(config.model, config.training.seed)
    crop_px = config.augmentation.crop_px if config.augmentation else None
    if crop_px is not None and (crop_px % stride or crop_px > min(crop_shape)):
        raise ConfigError(
            expected=f"a multiple of {stride} up to the store's {min(crop_shape)} px",
            found=f"{crop_px} px",
            where="augmentation.crop_px",
            fix="choose such a size",
        )
    return CompletionTask(
        network,
        build_simulator(
            config, crop_shape, augment=True, seed=config.training.seed, easier_first=True
        ),
        build_simulator(config, crop_shape, augment=False, seed=VALIDATION_SEED),
        encoding=config.model.encoding,
        sigma_px=fill_sigma_px(config.scan.coverage),
        weight=loss.weight,
        power=loss.power,
        make_alrc=alrc_of(loss.alrc),
        huber=loss.huber,
        relative=loss.relative,
        bf16=config.training.precision == "bf16",
        weight_norm_init=config.model.weight_norm_init,
        start=config.training.start,
    )


def _build_network(model: ModelConfig, seed: int) -> tuple[TwoStageNetwork, int]:
    """The network, and the number of pixels of which its images' sides must be multiples."""
    try:
        sizes = replace(PRESETS[model.preset], **model.changes)
    except ValueError as error:
        raise ConfigError(
            expected=f"sizes that fit the preset {model.preset}",
            found=str(error),
            where="model.sizes",
            fix="choose others, or another preset",
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(
            sizes,
            in_channels=NUM_CHANNELS[model.encoding],
            bias=model.bias,
            leaky_slope=model.leaky_slope,
            mean_norm_at_inference=model.mean_norm_at_inference,
            reference_layers=model.reference_layers,
        )
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, sizes.stride

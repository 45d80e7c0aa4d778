"""What is trained: networks, scan simulation and losses, as one module."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from stem_complete.config import ALRCConfig, Config, LossConfig
from stem_complete.errors import ConfigError
from stem_complete.losses import ALRC, half_size, huberise, squared_error
from stem_complete.models import (
    PRESETS,
    TwoStageNetwork,
    build_network,
    commit_means,
    mean_norm_layers,
    pending_means,
)
from stem_complete.scan import (
    NUM_CHANNELS,
    NetworkInput,
    PartialScan,
    ScanSimulator,
    SimulatedBatch,
    encode,
    fill_sigma_px,
)
from stem_complete.training.simulation import build_simulator
from stem_complete.vocabulary import Encoding

# Random stream of the keys. The simulation of scans has 0; 1 stays free: earlier versions used it.


class Completed(NamedTuple):
    """Completions in the intensity units of the scan, and the unit of the network's output.

    Attributes:
        full: `[b, 1, h, w]`.
        half: `[b, 1, h/2, w/2]`.
        unit: In intensity units `[b]`.
    """

    full: Tensor
    half: Tensor
    unit: Tensor


class TaskOutput(NamedTuple):
    """Losses of a micro-batch.

    Attributes:
        loss: What is back-propagated, [b]: inner plus outer loss after clipping and Huberisation.
        outer: Outer loss as measured, [b].
        inner: Inner loss as measured, [b].
        num_clipped: Examples whose (outer, inner) loss was clipped, [2].
    """

    loss: Tensor
    outer: Tensor
    inner: Tensor
    num_clipped: Tensor


class CompletionTask(nn.Module):
    """Completes simulated scans of micrographs and says how wrong the completions are.

    One backward pass of `loss` gives each sub-network its own gradient (ALRC paper, section IV):
    the trainer that of the inner loss, the outer generator that of the outer loss, the inner
    generator that of their sum.

    Args:
        network: Two-stage generator and trainer.
        simulator: Micrographs -> partial scans.
        encoding: Network input of a partial scan, see `scan.encode`.
        sigma_px: Of the encoding [px].
        loss: Weight, unit, clipping and Huberisation of both losses.
        bf16: Whether the network's convolutions run in bfloat16 (autocast); weights, statistics and
            losses stay float32.
    """

    def __init__(
        self,
        network: TwoStageNetwork,
        simulator: ScanSimulator,
        encoding: Encoding,
        sigma_px: float,
        loss: LossConfig,
        *,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.simulator = simulator
        self.encoding, self.sigma_px = encoding, sigma_px
        self.weight, self.huber, self.relative = loss.weight, loss.huber, loss.relative
        self.bf16 = bf16
        self.alrc = nn.ModuleDict()
        if loss.alrc is not None:
            self.alrc = nn.ModuleDict({name: _alrc(loss.alrc) for name in ("outer", "inner")})

    def forward(self, images: Tensor, step: int, positions: Tensor) -> TaskOutput:
        """Losses of the completions of `images`.

        Args:
            images: Micrographs in [-1, 1], [b, 1, h, w].
            step: Optimizer step; with `positions` it decides augmentation and noise.
            positions: Positions in the global batch, [b].
        """
        batch = self.simulator(images, step, positions)
        outer, inner = self.losses(self.complete(batch), batch.truth)

        # Clipping comes before Huberisation (ALRC paper, section IV).
        clipped = {"outer": outer, "inner": inner}
        for name, alrc in self.alrc.items():
            clipped[name] = alrc(clipped[name])
        num_clipped = torch.stack(
            ((clipped["outer"] < outer).sum(), (clipped["inner"] < inner).sum())
        )
        if self.huber:
            clipped = {name: huberise(value) for name, value in clipped.items()}
        return TaskOutput(clipped["outer"] + clipped["inner"], outer, inner, num_clipped.float())

    def complete(self, batch: SimulatedBatch) -> Completed:
        """Full- and half-size completions."""
        encoded = self.encode(batch.scan)
        # Convolutions on CPUs take two thirds of the time in this memory format.
        x = encoded.x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            full, half = self.network(x)
        full, half = full.float(), half.float()
        offset = encoded.offset.expand_as(full)
        return Completed(
            offset + encoded.scale * full,
            half_size(offset) + encoded.scale * half,
            encoded.scale.flatten(),
        )

    def losses(self, completed: Completed, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Outer and inner loss of each example, [b]; `truth` is that of the full size."""
        outer = squared_error(completed.full, truth, self.weight)
        inner = squared_error(completed.half, half_size(truth), self.weight)
        if not self.relative:
            return outer, inner
        square = completed.unit.square()
        return outer / square, inner / square

    def encode(self, scan: PartialScan) -> NetworkInput:
        """The network's input for partial scans."""
        return encode(scan, self.encoding, sigma_px=self.sigma_px)

    def statistics(self) -> dict[str, Tensor]:
        """What ALRC and the mean norm have accumulated since the last `commit`, to be summed."""
        pending = {f"alrc/{name}": cast("ALRC", alrc).pending for name, alrc in self.alrc.items()}
        return pending | {"means": pending_means(self.network)}

    def replicas(self) -> list[Tensor]:
        """Moments and running means: they change by `commit` alone, on every worker to the bit."""
        moments = [
            moment
            for alrc in self.alrc.values()
            for moment in (cast("ALRC", alrc).mu1, cast("ALRC", alrc).mu2, cast("ALRC", alrc).rest)
        ]
        return moments + [layer.running_mean for layer in mean_norm_layers(self.network)]

    def commit(self, sums: dict[str, Tensor], usable: Tensor) -> None:
        """Updates moments and running means from statistics summed over all workers.

        Args:
            sums: `statistics()`, summed.
            usable: Whether all losses and gradients were finite, []; running means are only
                updated if so.
        """
        for name, alrc in self.alrc.items():
            cast("ALRC", alrc).commit(sums[f"alrc/{name}"])
        commit_means(self.network, torch.where(usable, sums["means"], 0.0))


def build_task(config: Config, crop_shape: tuple[int, int]) -> CompletionTask:
    """The task that a config describes, on the CPU, with weights drawn from its seed.

    Raises:
        ConfigError: Its sizes do not fit together, or micrographs of `crop_shape`.
    """
    model = config.model
    try:
        sizes = PRESETS[model.preset].changed(model.sizes.model_dump())
    except ValueError as error:
        raise ConfigError(
            expected=f"sizes that fit the preset {model.preset}",
            found=str(error),
            where="model.sizes",
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network = build_network(
            sizes,
            in_channels=NUM_CHANNELS[model.encoding],
            bias=model.bias,
            leaky_slope=model.leaky_slope,
            mean_norm_at_inference=model.mean_norm_at_inference,
            reference_layers=model.reference_layers,
        )
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crop_px = config.augmentation.crop_px if config.augmentation else None
    if crop_px is not None and (crop_px % sizes.stride or crop_px > min(crop_shape)):
        raise ConfigError(
            expected=f"a multiple of {sizes.stride} up to the store's {min(crop_shape)} px",
            found=f"{crop_px} px",
            where="augmentation.crop_px",
        )
    return CompletionTask(
        network,
        build_simulator(config, crop_shape, augment=True, seed=config.training.seed),
        model.encoding,
        fill_sigma_px(config.scan.coverage),
        config.loss,
        bf16=config.training.precision == "bf16",
    )


def _alrc(config: ALRCConfig) -> ALRC:
    return ALRC(
        config.num_stddev,
        config.decay,
        config.mu1_start,
        config.mu2_start,
        config.moments,
        accumulate=True,
        variance_floor=config.variance_floor,
    )

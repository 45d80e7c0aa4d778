"""The one strict schema of a training run. Defaults live here and nowhere else.

The defaults are the `paper` recipe (Ede and Beanland 2020, ALRC paper, section IV); a YAML file
states only what it changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stem_complete.config.curriculum import CurriculumConfig
from stem_complete.config.optimization import (
    GradientClippingConfig,
    HardExamplesConfig,
    OptimizerConfig,
)
from stem_complete.config.section import Coverage, Fraction01, Section
from stem_complete.config.sweep import SweepConfig
from stem_complete.credentials import put_aside, storage_options
from stem_complete.vocabulary import (
    Encoding,
    Geometry,
    MeanNormAtInference,
    Norm,
    Sample,
    TaskName,
)

if TYPE_CHECKING:
    from upath import UPath

PathFile = Annotated[str, Field(pattern=r"\.(csv|tsv|parquet|npz|json|h5|hdf5)$")]
"""File of a path of the probe, see `data.formats.scans.read_path`."""
NotNegative = Annotated[float, Field(ge=0)]


class DataConfig(Section):
    """Which micrographs are trained on."""

    store: Path = Field(
        description="zarr store written by `stem-complete ingest`; other tasks name their own data"
    )
    loader_workers: NonNegativeInt = Field(
        0, description="processes that read ahead, per training worker; 0 reads when needed"
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="CIFAR-10: of its training images, from everywhere in its files"
    )


class NoNoiseConfig(Section):
    """The measured intensity of a pixel is the specimen's, however short its dwell."""

    kind: Literal["none"] = "none"


class ReferenceNoiseConfig(Section):
    """The published code's detection noise, pixel by pixel, see `scan.ReferenceNoise`."""

    kind: Literal["reference"] = "reference"


class DetectorNoiseConfig(Section):
    """Electrons counted sample by sample along the path, see `scan.Detector`."""

    kind: Literal["detector"] = "detector"
    dose_electrons_per_px: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None = Field(
        100.0,
        description="electrons counted over a full pixel dwell at the highest intensity; "
        "[low, high] draws each example's log-uniformly; null counts without noise",
    )
    background_electrons_per_px: NotNegative = 0.0
    readout_std_electrons: NotNegative = Field(0.0, description="of a sample")
    gain: PositiveFloat | None = Field(
        None, description="digital units per electron, which are whole; null does not digitise"
    )
    offset: NotNegative = Field(0.0, description="digital units without an electron")
    afterglow_dwells: NotNegative = Field(
        0.0, description="time constant of the scintillator [full pixel dwells]"
    )


class HardwareConfig(Section):
    """How the probe follows its path while samples are counted, see `scan.ScanHardware`."""

    coil_lag_dwells: NotNegative = Field(0.0, description="time constant [full pixel dwells]")
    blanked_jumps: bool = Field(True, description="the coils settle after a jump, beam off")
    drift_px: NotNegative = Field(0.0, description="of the specimen during a full frame [px]")
    line_jitter_px: NotNegative = Field(0.0, description="standard deviation [px]")
    dead_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="fraction of the samples that are lost"
    )


NoiseConfig = Annotated[
    NoNoiseConfig | ReferenceNoiseConfig | DetectorNoiseConfig, Field(discriminator="kind")
]


class ScanConfig(Section):
    """How a micrograph becomes a partial scan."""

    geometry: Geometry | PathFile = Field(
        "archimedean",
        description="path of the probe, see docs/scans.md, or a file of positions, their dwell "
        "scaled to the coverage; archimedean: a spiral at constant speed; drawn: the published "
        "code's pixels; nominal: those too, but coverage is the spiral's inverse pitch",
    )
    coverage: Coverage = Field(1 / 20, description="mean dwell")
    noise: NoiseConfig = ReferenceNoiseConfig()
    hardware: HardwareConfig = HardwareConfig()
    sample: Sample = Field(
        "blurred",
        description="which image the probe measures; the loss always sees the blurred one",
    )
    blur_sigma_px: PositiveFloat = Field(2.5, description="5x5 Gaussian blur of the truth")


class AugmentationConfig(Section):
    """How training scans vary; validation and evaluation scan whole micrographs as `scan` says.

    Every example is flipped and rotated at random.
    """

    max_zoom: Annotated[float, Field(ge=1)] = Field(
        1.0, description="train on random parts of micrographs, enlarged up to this many times"
    )
    crop_px: PositiveInt | None = Field(
        None,
        description="train on parts of this size, turned by any angle, shrunk or enlarged; None is "
        "the size of the micrographs",
    )
    sharp_fraction: Fraction01 = Field(
        0.0,
        description="fraction of these parts that are cut out pixel by pixel instead; "
        "interpolation smooths the noise of a micrograph",
    )
    overlay: bool = Field(
        False, description="train on sums of two parts of a micrograph, in random proportions"
    )
    smooth_fraction: Fraction01 = Field(
        0.0,
        description="fraction of these parts that a Gaussian of random width makes smooth, as many "
        "specimens are, and micrographs with noise of their own are not",
    )
    contrast: bool = Field(False, description="train on random tone curves, half of them inverted")
    geometries: tuple[Geometry | PathFile, ...] = Field(
        (), description="train on these as often as on scan.geometry"
    )
    coverages: tuple[Coverage, ...] = Field(
        (), description="train on these as often as on scan.coverage"
    )
    noises: tuple[NoiseConfig, ...] = Field(
        (), description="train on these as often as on scan.noise"
    )
    noisy_fraction: Fraction01 = Field(
        1.0, description="fraction of the examples that are scanned with noise"
    )
    curriculum: CurriculumConfig | None = Field(
        None, description="train on easier scans first: denser, of higher doses, or without noise"
    )


class SizesConfig(Section):
    """Sizes of the network that differ from its preset's, see `models.Architecture`."""

    inner_widths: tuple[PositiveInt, ...] | None = None
    inner_blocks: NonNegativeInt | None = None
    outer_widths: tuple[PositiveInt, PositiveInt] | None = None
    outer_blocks: NonNegativeInt | None = None
    patch: PositiveInt | None = None
    fine_blocks: NonNegativeInt | None = None
    spectral_blocks: NonNegativeInt | None = None
    skips: bool | None = None
    gates: NonNegativeInt | None = None

    @model_serializer(mode="wrap")
    def _changes(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sizes that were given."""
        return {key: value for key, value in serialize(self).items() if value is not None}


class ModelConfig(Section):
    """The two-stage generator and its trainer."""

    preset: Literal["paper", "compact", "any-dose", "any-scan"] = "paper"
    sizes: SizesConfig = SizesConfig()
    norm: Norm | None = Field(
        None,
        description="of all convolutions but the last, before the activation; mean: channel means "
        "are subtracted, as in the paper; batch, layer: also scaled, by what the batch or the "
        "channels of a pixel have; none: biases instead; None is the preset's",
    )
    weight_norm_init: bool = Field(True, description="data-dependent initialisation pass")
    bias: bool = False
    mean_norm_at_inference: MeanNormAtInference = "running"
    leaky_slope: Fraction01 = Field(0.0, description="0 is ReLU")
    reference_layers: bool = Field(
        False,
        description="the published code's exceptions: no weight norm in the inner generator's "
        "first layer, transposed kernels normalised per input channel",
    )
    encoding: Encoding = Field(
        "standard",
        description="standard: intensities standardised by the scan's own dwell-weighted mean and "
        "deviation; filled: with its normalised convolution, which the network corrects; splines: "
        "two first completions that fit any coverage and noise; waves: the same after plane waves, "
        "as of lattices; reference: (det + 1) / (1 + max det), as in the published files",
    )

    @property
    def changes(self) -> dict[str, Any]:
        """What the architecture has other than its preset, see `models.Architecture`."""
        return self.sizes.model_dump() | ({} if self.norm is None else {"norm": self.norm})


class ResNetConfig(Section):
    """The network of classification, ResNet-18."""

    width: PositiveInt = Field(
        64, description="filters of the first block; each other has twice as many as the one before"
    )


class ALRCConfig(Section):
    """Adaptive learning rate clipping (Algorithm 1)."""

    num_stddev: PositiveFloat = 3.0
    num_stddev_below: PositiveFloat | None = Field(
        None,
        description="losses further below their mean are raised, which had no effect in the paper; "
        "clip fractions do not count them. None raises none",
    )
    decay: tuple[Fraction01, Fraction01] = (0.999, 0.999)
    mu1_start: PositiveFloat = 25.0
    mu2_start: PositiveFloat = 900.0
    moments: Literal["raw", "clipped"] = "raw"
    variance_floor: Annotated[float, Field(ge=0)] = 0.0
    intake: Fraction01 | None = Field(
        None,
        description="weight of a step's means in the moments; None is 1 - decay. With less the "
        "moments come to less than the true ones, as in the published CIFAR-10 code",
    )

    @model_validator(mode="after")
    def _intake_is_no_more_than_what_decays(self) -> Self:
        if self.intake is not None and self.intake > 1 - max(self.decay):
            raise ValueError(f"intake must be at most 1 - decay, got {self.intake:g}")
        return self

    @model_validator(mode="after")
    def _variance_is_positive(self) -> Self:
        if self.mu1_start**2 >= self.mu2_start:
            raise ValueError(
                f"mu1_start^2 must be below mu2_start, got {self.mu1_start**2:g} >= "
                f"{self.mu2_start:g}"
            )
        return self


class LossConfig(Section):
    """Each loss: weight * mean of the errors' power, clipped, then Huberised."""

    weight: PositiveFloat = 200.0
    power: Literal[2, 4] = Field(2, description="of the errors; at 4 few large ones decide")
    root_above: PositiveFloat | None = Field(
        None,
        description="supersampling: losses above it are replaced by their roots before clipping, "
        "as the published code does at 50",
    )
    alrc: ALRCConfig | None = ALRCConfig()
    huber: bool = False
    relative: Literal["first"] | bool = Field(
        False,
        description="errors in units of the network's output, which splines and waves make the "
        "likely error of a first completion; `first`: in units of the error that it has",
    )


class TrainingConfig(Section):
    """Length, batches and what is written when."""

    steps: PositiveInt = 500_000
    start: str | None = Field(
        None,
        description="a new run begins with the weights of this model, named as for `complete "
        "--model`, of the same architecture and encoding; None draws them",
    )
    max_minutes: PositiveFloat | None = Field(
        None,
        description="stop with a checkpoint after so long, as if all steps were done; started "
        "again, the run goes on for as long; None trains all steps at once",
    )
    batch_size: PositiveInt | None = Field(
        None, description="examples per optimizer step, over all workers; None is one for each"
    )
    micro_batch_size: PositiveInt | None = Field(
        None, description="examples per forward pass and worker; None takes a worker's whole share"
    )
    gradient_clipping: GradientClippingConfig = GradientClippingConfig()
    hard_examples: HardExamplesConfig | None = Field(
        None,
        description="train again on examples of high losses, as the published code does with {}; "
        "None does not",
    )
    freeze_mean_norm: Fraction01 = Field(
        0.5,
        description="fraction of the run after which running means (and variances, of batch "
        "norm) are frozen",
    )
    seed: NonNegativeInt = 0
    log_every_steps: PositiveInt = 50
    validate_every_steps: PositiveInt = 5_000
    validation_examples: PositiveInt = 64
    patience: PositiveInt | None = Field(
        None,
        description="stop after so many validations in a row that are not better than the best one "
        "before; the run is finished. None trains all steps",
    )
    checkpoint_every_steps: PositiveInt = 5_000
    keep_checkpoints: PositiveInt = Field(2, description="newest ones")
    keep_best: NonNegativeInt = Field(1, description="and so many with the lowest validation error")
    export: Literal["last", "best"] = Field("last", description="checkpoint that becomes the model")
    calibration_scans: PositiveInt = Field(
        64, description="validation scans, for each kind of noise, that its error map is fitted to"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: convolutions by autocast; losses and statistics stay float32"
    )
    weight_average: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="decay per step of a running average of the weights, which is what is "
        "validated and exported; None is the weights themselves",
    )
    cuda_graph: bool = Field(
        False,
        description="replay recorded steps: for one worker whose GPU waits for the host, as at "
        "small batches; the numbers stay the same",
    )
    num_pictures: NonNegativeInt = Field(4, description="validation completions drawn each time")
    max_nonfinite_steps: PositiveInt = Field(
        50, description="stop after so many skipped steps in a row"
    )


class ScalingConfig(Section):
    """Where it runs: workers of one Ray Train group."""

    num_workers: PositiveInt = Field(
        1, description="1 under torchrun: as many as it started processes"
    )
    min_workers: PositiveInt | None = Field(
        None, description="elastic: the run shrinks to so few and grows back; None does neither"
    )
    use_gpu: bool = False
    cpus_per_worker: PositiveInt = 1
    max_failures: Annotated[int, Field(ge=-1)] = Field(
        3, description="restarts from the last checkpoint; -1 is no limit"
    )
    resize_every_s: PositiveFloat = Field(
        60.0, description="elastic: how often to look whether there is room for more workers"
    )
    wait_for_nodes_s: PositiveFloat = Field(
        3600.0, description="give up if the cluster has no room for the workers for so long"
    )
    collective_timeout_s: PositiveFloat = Field(
        300.0, description="a worker that makes no headway for so long is stuck, and fails"
    )
    bucket_mb: PositiveFloat = Field(25.0, description="gradients exchanged at a time")
    gradient_compression: Literal["none", "bf16"] = Field(
        "none", description="bf16: half the bytes between workers"
    )

    @property
    def world_sizes(self) -> range:
        """Numbers of workers that the run may have."""
        return range(self.min_workers or self.num_workers, self.num_workers + 1)

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not exceed num_workers ({self.num_workers})"
            )
        return self


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    uri: str | None = Field(
        None, description="None: MLFLOW_TRACKING_URI, or else an SQLite file in storage"
    )
    experiment: str = "stem-complete"
    system_metrics_every_s: Annotated[float, Field(ge=0)] = Field(
        10.0,
        description="CPU, memory, disk, network and GPU of each node; 0 records none. Has gaps "
        "where the server was away",
    )


class Config(Section):
    """A training run, or a sweep of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "paper"
    recipe: Literal["paper", "reference-code", "compact", "any-dose", "any-scan"] = "paper"
    task: TaskName = Field(
        "completion",
        description="what is trained; completion: micrographs from partial scans; supersampling: "
        "CIFAR-10 at twice its size, with data.store naming its archive, and without the sections "
        "scan, augmentation and model; classification: CIFAR-10's classes, likewise",
    )
    storage: Annotated[str, BeforeValidator(str)] = Field(
        "runs", description="runs are kept in <storage>/<name>: a path, or a URL like s3://bucket"
    )
    data: DataConfig
    scan: ScanConfig = ScanConfig()
    augmentation: AugmentationConfig | None = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    resnet: ResNetConfig = ResNetConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    scaling: ScalingConfig = ScalingConfig()
    tracking: TrackingConfig = TrackingConfig()
    sweep: SweepConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_credentials(cls, values: Any) -> Any:
        # Configs go into logs, checkpoints, models and MLflow.
        return put_aside(values)

    @property
    def run_folder(self) -> UPath:
        """Folder of this run: checkpoints, config, completed pictures, the model.

        A `pathlib.Path` if `storage` is one, else an object with the same methods.
        """
        from upath import UPath  # with fsspec, which completing a scan does without

        return UPath(self.storage, **storage_options(self.storage)) / self.name

    @property
    def batch_size(self) -> int:
        """Examples per optimizer step, over all workers."""
        return self.training.batch_size or self.scaling.num_workers

    def micro_batch_size(self, num_workers: int) -> int:
        """Examples per forward pass on each of so many workers.

        Raises:
            ValueError: The batch cannot be shared out evenly.
        """
        batch = self.batch_size
        share, rest = divmod(batch, num_workers)
        if rest or not share:
            raise ValueError(
                f"training.batch_size ({batch}) must be a multiple of the number of workers "
                f"({num_workers})"
            )
        micro = self.training.micro_batch_size or share
        if share % micro:
            raise ValueError(
                f"each worker's share of the batch ({share}) must be a multiple of "
                f"training.micro_batch_size ({micro})"
            )
        return micro

    @model_validator(mode="after")
    def _steps_can_be_recorded(self) -> Self:
        for key in ("schedule", "beta1_schedule"):
            schedule = getattr(self.optimizer, key)
            if self.training.cuda_graph and schedule and schedule.changes_every_step:
                raise ValueError(
                    f"training.cuda_graph replays recorded rates, which optimizer.{key} changes in "
                    "every step; add training.cuda_graph=false"
                )
        if self.training.cuda_graph and self.training.hard_examples is not None:
            raise ValueError(
                "training.cuda_graph replays one step for all examples of a batch, and "
                "training.hard_examples have each their own; add training.cuda_graph=false"
            )
        return self

    @model_validator(mode="after")
    def _batch_norm_sees_the_batch(self) -> Self:
        if self.model.norm == "batch" and self.training.micro_batch_size is not None:
            raise ValueError(
                "model.norm=batch needs the whole batch in one pass, or runs would depend on the "
                "number of workers; add training.micro_batch_size=null"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        # Every worker has an equal share at any size that an elastic run may take.
        for num_workers in self.scaling.world_sizes:
            self.micro_batch_size(num_workers)
        return self

"""Images of CIFAR-10 by their classes: what the text on network stability experiments with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.config import Config
from stem_complete.data.cifar10 import NUM_CLASSES, SIDE_PX, Cifar10
from stem_complete.losses import ALRC
from stem_complete.models import BatchNorm, ResNet18, commit_statistics, pending_statistics
from stem_complete.scan.random import Stream, example_keys, integers
from stem_complete.training.loss_clipping import alrc_of
from stem_complete.training.supersampling import images_of
from stem_complete.training.task import Task, TaskOutput, Validated

MAX_SHIFT_PX = 4
# Of all training images, in 0 .. 255, by channel.
MEANS, DEVIATIONS = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
NUM_GUESSES = 5
_NORM_DECAY = 0.9  # torch's


class ClassificationTask(Task):
    """Tells the class of images; ResNet-18 with cross entropy.

    Examples are those of `Cifar10`, [b, 3073] uint8. The loss `zero_one` is 1 where the class is
    wrong and 0 where it is right, and only measured. Running statistics of the network's batch
    norm go on where its block is frozen.

    Args:
        width: Filters of the network's first block.
        make_alrc: Makes the ALRC of a loss; None clips nothing.
        seed: Of the augmentation.
    """

    loss_names = ("cross_entropy", "zero_one")
    metric_names = ("cross_entropy", "zero_one", "beyond_five")
    score = "zero_one"
    validation_batch = 64

    def __init__(
        self, *, width: int, make_alrc: Callable[[], ALRC] | None = None, seed: int = 0
    ) -> None:
        super().__init__(make_alrc)
        self.network = ResNet18(NUM_CLASSES, width=width, norm=_norm)
        self.seed = seed

    def forward(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> TaskOutput:
        """Losses of images that were shifted and flipped; see `Task.forward`."""
        images = shifted_and_flipped(images_of(examples), self.seed, step, positions)
        logits, labels = self.network(standardised(images)), labels_of(examples)
        losses = {
            "cross_entropy": F.cross_entropy(logits, labels, reduction="none"),
            "zero_one": _beyond(logits, labels, 1),
        }
        clipped = self.alrc(losses)
        return TaskOutput(clipped["cross_entropy"], losses, clipped)

    def validate(self, examples: Tensor, positions: Tensor) -> Validated:
        """The losses without augmentation, and whether the class is beyond five guesses."""
        del positions
        logits, labels = self.network(standardised(images_of(examples))), labels_of(examples)
        return Validated(
            {
                "cross_entropy": F.cross_entropy(logits, labels, reduction="none"),
                "zero_one": _beyond(logits, labels, 1),
                "beyond_five": _beyond(logits, labels, NUM_GUESSES),
            }
        )

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Parameters of `stem`, the first convolution; `block_64` to `block_512`; and `head`."""
        parts = {"stem": self.network.stem, **self.network.blocks, "head": self.network.head}
        return {name: list(part.parameters()) for name, part in parts.items()}

    def statistics(self) -> dict[str, Tensor]:
        """What ALRC and batch norm have accumulated since the last `commit`, to be summed."""
        return super().statistics() | {"norms": pending_statistics(self.network)}

    def commit(self, sums: dict[str, Tensor], usable: Tensor) -> None:
        """Updates moments, and running statistics if `usable`; see `Task.commit`."""
        super().commit(sums, usable)
        commit_statistics(self.network, torch.where(usable, sums["norms"], 0.0))


def _norm(num_channels: int) -> BatchNorm:
    return BatchNorm(num_channels, decay=_NORM_DECAY)


def labels_of(examples: Tensor) -> Tensor:
    """Classes [b] int64 of `Cifar10`'s examples."""
    return examples[:, 0].long()


def standardised(images: Tensor) -> Tensor:
    """Images [b, 3, h, w] in 0 .. 255, less the data's mean and by its deviation, by channel."""
    means, deviations = (images.new_tensor(of)[:, None, None] for of in (MEANS, DEVIATIONS))
    return (images - means) / deviations


def shifted_and_flipped(images: Tensor, seed: int, step: int | Tensor, positions: Tensor) -> Tensor:
    """Images shifted by up to 4 px along both axes and flipped left to right, at random.

    What comes into an image is 0 (He et al. 2016, section 4.2).
    """

    def draw(stream: Stream, high: int) -> Tensor:
        return integers(example_keys(seed, step, positions, stream), high)[:, None]

    padded = F.pad(images, (MAX_SHIFT_PX,) * 4)
    pixels = torch.arange(SIDE_PX, device=images.device)
    rows = pixels + draw(Stream.SHIFT_ROWS, 2 * MAX_SHIFT_PX + 1)
    columns = pixels + draw(Stream.SHIFT_COLUMNS, 2 * MAX_SHIFT_PX + 1)
    columns = torch.where(draw(Stream.FLIPS, 2) == 1, columns.flip(1), columns)
    examples = torch.arange(len(images), device=images.device)[:, None, None]
    # Indexed dimensions come first.
    return padded.movedim(1, 3)[examples, rows[:, :, None], columns[:, None]].movedim(3, 1)


def _beyond(logits: Tensor, labels: Tensor, num: int) -> Tensor:
    """1 where the class is not among the first guesses, [b]."""
    place = (logits >= logits.gather(1, labels[:, None])).sum(1)
    return 1 - ((place >= 1) & (place <= num)).float()  # of a logit that is NaN it is 0


def build_classification(config: Config) -> tuple[ClassificationTask, Cifar10]:
    """The task of a config, and the images of CIFAR-10 that `data.store` names.

    Raises:
        DataError: `data.store` does not hold CIFAR-10.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        task = ClassificationTask(
            width=config.resnet.width,
            make_alrc=alrc_of(config.loss.alrc),
            seed=config.training.seed,
        )
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task, Cifar10(config.data.store, fraction=config.data.fraction)

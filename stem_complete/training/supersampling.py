"""The ALRC paper's experiments with CIFAR-10: images at twice their size (section III)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.config import Config
from stem_complete.data.cifar10 import NUM_CHANNELS, SIDE_PX, Cifar10
from stem_complete.losses import ALRC, huberise, mean_power
from stem_complete.models import SupersamplingNetwork
from stem_complete.scan.random import Stream, example_keys, integers, uniform
from stem_complete.training.loss_clipping import alrc_of
from stem_complete.training.task import Picture, Task, TaskOutput, Validated

MAX_BRIGHTNESS = 63.0  # of 255
CONTRAST = (0.2, 1.8)


class SupersamplingTask(Task):
    """Restores images that were halved in size, [b, 3, 32, 32] of mean 0 and deviation 1.

    Examples are those of `Cifar10`, [b, 3073] uint8.

    Args:
        power: Of the errors: 2, or 4, at which few large ones decide the loss.
        weight: Of the mean of the powers.
        make_alrc: Makes the loss's ALRC; None clips nothing.
        huber: Whether the loss is Huberised after clipping.
        root_above: Losses above it are replaced by their roots before all else, as the published
            code does at 50; None: none are.
        seed: Of the augmentation.
    """

    loss_names = ("image",)
    metric_names = ("image_loss", "rmse")
    score = "rmse"

    def __init__(
        self,
        *,
        power: int,
        weight: float,
        make_alrc: Callable[[], ALRC] | None,
        huber: bool = False,
        root_above: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(make_alrc)
        self.network = SupersamplingNetwork()
        self.power, self.weight, self.huber, self.root_above = power, weight, huber, root_above
        self.seed = seed

    def forward(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> TaskOutput:
        """Losses of restored images; see `Task.forward`."""
        images = standardised(varied(images_of(examples), self.seed, step, positions))
        loss = mean_power(self.restore(images), images, self.power, self.weight)
        if self.root_above is not None:
            loss = torch.where(loss < self.root_above, loss, loss.clamp(min=1e-8).sqrt())
        losses = {"image": loss}
        clipped = self.alrc(losses)
        final = huberise(clipped["image"]) if self.huber else clipped["image"]
        return TaskOutput(final, losses, clipped)

    def restore(self, images: Tensor) -> Tensor:
        """What the network makes of `images` after these were halved and enlarged again."""
        restored: Tensor = self.network(halved_and_enlarged(images))
        return restored

    def validate(self, examples: Tensor, positions: Tensor) -> Validated:
        """The loss, and the root mean square error of standardised images without augmentation.

        The picture has the enlarged, the restored and the true image side by side.
        """
        del positions
        images = standardised(images_of(examples))
        restored = self.restore(images)
        metrics = {
            "image_loss": mean_power(restored, images, self.power, self.weight),
            "rmse": mean_power(restored, images, 2).sqrt(),
        }
        return Validated(metrics, _picture(images, restored))

    def picture(self, examples: Tensor, step: int | Tensor, positions: Tensor) -> Picture:
        """The enlarged, the restored and the true image of an example that was trained on."""
        images = standardised(varied(images_of(examples), self.seed, step, positions))
        return _picture(images, self.restore(images))


def _picture(images: Tensor, restored: Tensor) -> Picture:
    """The first of `images`, enlarged, restored and as it is, side by side."""
    panels = torch.cat([halved_and_enlarged(images), restored, images], dim=3)[0].mean(0)
    grey = (128 + 50 * panels).clamp(0, 255).round().to(torch.uint8)
    return grey.cpu().numpy()


def images_of(examples: Tensor) -> Tensor:
    """Images [b, 3, 32, 32] in 0 .. 255 of `Cifar10`'s examples."""
    return examples[:, 1:].view(-1, NUM_CHANNELS, SIDE_PX, SIDE_PX).float()


def varied(images: Tensor, seed: int, step: int | Tensor, positions: Tensor) -> Tensor:
    """Images flipped left to right, brighter or darker, and of other contrast, at random.

    Contrast is changed about the mean of each channel, as TensorFlow does.
    """

    def draw(stream: Stream, low: float, high: float) -> Tensor:
        return low + (high - low) * uniform(example_keys(seed, step, positions, stream), (1, 1, 1))

    flips = integers(example_keys(seed, step, positions, Stream.FLIPS), 2).view(-1, 1, 1, 1)
    images = torch.where(flips == 1, images.flip(3), images)
    images = images + draw(Stream.BRIGHTNESS, -MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    mean = images.mean((2, 3), keepdim=True)
    return mean + draw(Stream.CONTRAST, *CONTRAST) * (images - mean)


def standardised(images: Tensor) -> Tensor:
    """Images [b, ...] of mean 0 and deviation 1 each; one without contrast becomes 0."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), correction=0, keepdim=True)
    # The floor is TensorFlow's, which keeps images without contrast finite.
    return (images - mean) / deviation.clamp(min=images[0].numel() ** -0.5)


def halved_and_enlarged(images: Tensor) -> Tensor:
    """Bilinear resizing to half the size and back, corners aligned (published code)."""
    height, width = images.shape[2:]
    small = F.interpolate(images, (height // 2, width // 2), mode="bilinear", align_corners=True)
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=True)


def build_supersampling(config: Config) -> tuple[SupersamplingTask, Cifar10]:
    """The task of a config, and the images of CIFAR-10 that `data.store` names.

    Raises:
        DataError: `data.store` does not hold CIFAR-10.
    """
    loss = config.loss
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        task = SupersamplingTask(
            power=loss.power,
            weight=loss.weight,
            make_alrc=alrc_of(loss.alrc),
            huber=loss.huber,
            root_above=loss.root_above,
            seed=config.training.seed,
        )
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return task, Cifar10(config.data.store, fraction=config.data.fraction)

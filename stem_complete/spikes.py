"""The losses of a run that ALRC clipped hardest: of which examples they were, and what these show.

They come from the run's newest checkpoint. How an example was varied and scanned follows from the
step and its place in the batch, so that it can be drawn again as the network saw it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from upath import UPath

from stem_complete.config import validate_config
from stem_complete.console import format_digits
from stem_complete.data.examples import Examples, check_recorded
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ArtifactError
from stem_complete.evaluation import contact_sheet, markdown_table, save_png
from stem_complete.training import Checkpoints
from stem_complete.training.checkpoint_folder import spikes_of
from stem_complete.training.spikes import Spike
from stem_complete.training.task import Picture
from stem_complete.training.tasks import build_named

_NUM_DRAWN = 12
_NUM_PANELS = 3  # of the picture that a task makes of an example


def spikes_of_run(run: str | Path | UPath) -> tuple[Spike, ...]:
    """The losses that were clipped hardest, the hardest first.

    Args:
        run: Its folder or URL.

    Raises:
        ArtifactError: It has no whole checkpoint.
        StorageError: It cannot be read.
    """
    # By the metadata alone: weights may take gigabytes.
    for metadata in Checkpoints(run).readable().values():
        return spikes_of(metadata)
    raise _nothing(run)


def spikes_table(spikes: Sequence[Spike]) -> str:
    """A line for each."""
    if not spikes:
        return "no loss was clipped"
    rows = [
        [
            *(f"{spike.step:,}", f"{spike.example:,}", spike.name),
            *map(format_digits, (spike.loss, spike.threshold, spike.ratio)),
        ]
        for spike in spikes
    ]
    return markdown_table(["step", "example", "loss", "value", "threshold", "ratio"], rows)


@torch.no_grad()
def draw_spikes(run: str | Path | UPath, picture: Path) -> None:
    """Writes a PNG of the examples that were clipped hardest, as the run's task draws them.

    A micrograph's scan, its completion by the newest weights, and the truth are side by side.

    Args:
        run: Its folder or URL.
        picture: File to write.

    Raises:
        ArtifactError: There is no whole checkpoint, or no spike in it.
        StemCompleteError: What was trained on cannot be read, or is not there any more.
    """
    checkpoint = Checkpoints(run).latest()
    if checkpoint is None:
        raise _nothing(run)
    config = validate_config(checkpoint.config, where=str(checkpoint.folder))
    task, examples = build_named(config)
    if checkpoint.examples is not None:
        check_recorded(examples, checkpoint.examples, checkpoint.folder)
    task.load_state_dict(checkpoint.state["task"])
    task.eval()
    images: list[Picture] = []
    labels: list[str] = []
    drawn = set()
    for spike in checkpoint.spikes:
        # Of one example several losses may have been clipped.
        place = (spike.step, spike.position)
        if place in drawn or len(images) == _NUM_DRAWN:
            continue
        drawn.add(place)
        batch = torch.from_numpy(examples.read([spike.example]))
        image = task.picture(batch, spike.step, torch.tensor([spike.position]))
        if image is not None:
            images.append(image)
            ratio = format_digits(spike.ratio)
            labels.append(f"step {spike.step:,}, {ratio} x: {_name(examples, spike.example)}")
    if not images:
        raise ArtifactError(
            expected="losses that were clipped",
            found="none",
            where=str(checkpoint.folder),
            fix="train with loss.alrc, or with fewer standard deviations",
        )
    save_png(contact_sheet(images, labels, num_panels=_NUM_PANELS), picture)


def _nothing(run: str | Path | UPath) -> ArtifactError:
    return ArtifactError(
        expected="a run with checkpoints",
        found="none",
        where=str(run),
        fix="give the folder of a training run",
    )


def _name(examples: Examples, example: int) -> str:
    if isinstance(examples, MicrographStore):
        (record,) = examples.records([example])
        return Path(record.source.path).stem
    return f"example {example:,}"

"""One outlier in a batch of 16: what clipping losses, gradients or steps does to the other fifteen.

    python -m stem_complete.experiments.outlier --data cifar-10-binary.tar.gz --output report

The network of the ALRC paper learns to restore CIFAR-10's images, with quartic errors, while every
method sees the same losses and gradients and none changes them. Then the last image of a batch is
faded to grey but for one white pixel, as a hot pixel of a detector would be; as images are
standardised, the fainter the rest the larger the loss. Every method gets the gradient of this
batch, and it is told what it leaves of the fifteen's part and of the outlier's.

The report has a figure, a table of the strongest outlier and of a batch without one, and a CSV
file with a row for each method, batch and outlier.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from stem_complete.config import Config, load_config
from stem_complete.console import errors_in_one_line, say
from stem_complete.evaluation import grouped, markdown_table, save_png, side_by_side_figure
from stem_complete.experiments.outlier_effects import (
    BATCH,
    CONTRASTS,
    Effect,
    effects_of_outliers,
)
from stem_complete.files import write_atomically
from stem_complete.training import build_named

STEPS, NUM_BATCHES = 150, 5

# ZClip's decay, so that all running means remember as long and none is of the first losses.
ALRC_DECAY = 0.97

TITLES = {
    "none": "no clipping",
    "alrc": "ALRC",
    "norm": "norm",
    "agc": "AGC",
    "zclip": "ZClip",
    "adagc": "AdaGC",
    "spam": "SPAM",
    "skip": "skipped steps",
}
_LOWEST = 3e-5  # what is left and drawn; less lies on the edge


def configured(data: Path, seed: int = 0) -> Config:
    """The run that the outliers are shown to."""
    changes = [
        f"data.store={data}",
        f"training.seed={seed}",
        f"training.batch_size={BATCH}",
        f"loss.alrc.decay=[{ALRC_DECAY}, {ALRC_DECAY}]",
    ]
    return load_config(["supersampling"], changes)


def as_csv(effects: Sequence[Effect]) -> str:
    """A row for each effect."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Effect._fields)
    writer.writerows(
        [f"{value:.6g}" if isinstance(value, float) else value for value in effect]
        for effect in effects
    )
    return file.getvalue()


def table(effects: Sequence[Effect]) -> str:
    """Medians over the batches: without an outlier, and with the strongest."""
    rows = []
    for name, of_method in grouped(effects, lambda effect: effect.method).items():
        clean = [effect for effect in of_method if effect.contrast is None]
        worst = [effect for effect in of_method if effect.contrast == CONTRASTS[-1]]
        values = [effect.fifteen for effect in clean], *list(zip(*worst, strict=True))[4:]
        rows.append([TITLES[name], *(f"{median(each):.3g}" for each in values)])
    header = ["method", "no outlier: fifteen", "outlier: fifteen", "outlier's", "cosine"]
    return markdown_table(header, rows)


def figure(effects: Sequence[Effect]) -> Any:
    """A plot for each method: both parts of the gradient against the outlier's loss."""
    plots = {}
    for name, of_method in grouped(effects, lambda effect: effect.method).items():
        shown = grouped(of_method, lambda effect: effect.contrast).values()
        ratios = [median(effect.loss_ratio for effect in of) for of in shown]
        plots[TITLES[name]] = {
            label: sorted(
                (ratio, max(median(getattr(effect, part) for effect in of), _LOWEST))
                for ratio, of in zip(ratios, shown, strict=True)
            )
            for part, label in (("fifteen", "the fifteen"), ("last", "the last image"))
        }
    return side_by_side_figure(
        plots,
        xlabel="Loss of the last image, to the mean of the fifteen",
        ylabel="Gradient that is left, to the fifteen's",
        lowest=_LOWEST,
    )


def report(effects: Sequence[Effect], output: Path) -> str:
    """Writes `effects.csv`, `table.md` and `figure.png`, and returns the table."""
    output.mkdir(parents=True, exist_ok=True)
    written = f"{table(effects)}\n"
    write_atomically(output / "effects.csv", as_csv(effects))
    write_atomically(output / "table.md", written)
    save_png(figure(effects), output / "figure.png")
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10, as data.store")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training before the outliers")
    parser.add_argument("--batches", type=int, default=NUM_BATCHES, help="with outliers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = configured(options.data, options.seed)
    task, examples = build_named(config)
    effects = effects_of_outliers(
        task, examples, config, steps=options.steps, num_batches=options.batches
    )
    print(report(effects, options.output))
    say(f"report  {options.output}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

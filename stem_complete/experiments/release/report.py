"""Evaluates the released model, and brings the tables and pictures that show it up to date.

    python -m stem_complete.experiments.release.report MICROGRAPHS --output report

Run it in the repository. The evaluation protocol runs on MICROGRAPHS, of sources that the model was
never trained on, and on the bundled micrographs of the sources held out from its training, for half
an hour on one core. OUTPUT then holds

    unseen/, held_out/   what `stem-complete evaluate --protocol` writes of either
    published.txt        what `stem-complete evaluate --published` prints

A protocol of the same weights that is there is kept: remove its folder to evaluate other data. The
tables take the place of those between <!-- NAME --> and <!-- /NAME --> in the model's card and in
the README. Of the pictures only bundled micrographs become part of the repository. Read again what
the text beside them says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stem_complete.config import NoiseConfig, NoNoiseConfig, ReferenceNoiseConfig
from stem_complete.console import ProgressBar, errors_in_one_line, say
from stem_complete.data.bundled import example_micrographs
from stem_complete.errors import DataError
from stem_complete.evaluation import (
    MODEL,
    Baseline,
    CompletionExample,
    Condition,
    Method,
    Model,
    baseline_methods,
    by_method,
    completion_figure,
    evaluate_protocol,
    evaluate_published,
    load_micrographs,
    markdown_table,
    save_png,
    simulate,
)
from stem_complete.inference import RELEASED_MODEL, load_completer

README = Path(__file__).parents[3] / "README.md"
CARD = RELEASED_MODEL / "README.md"
HELD_OUT = ("bshev", "rem", "sjeon")  # the validation sources of `store` that are bundled
EXAMPLES: tuple[tuple[str, float, NoiseConfig], ...] = (
    ("rem_srtio3", 1 / 20, ReferenceNoiseConfig()),
    ("rem_srtio3", 1 / 50, NoNoiseConfig()),
    ("bshev_nps_1", 1 / 20, ReferenceNoiseConfig()),
    ("sjeon_ptporph5", 1 / 20, ReferenceNoiseConfig()),
)
WIDTH_PX = 1200


def evaluate_released(unseen: Sequence[str], output: Path) -> None:
    """Writes the reports to `output`; protocols of the same weights there are kept."""
    completer = load_completer()
    held_out = [file for file in example_micrographs() if file.name.startswith(HELD_OUT)]
    data: dict[str, Sequence[str | Path]] = {"unseen": unseen, "held_out": held_out}
    for name, files in data.items():
        found = output / name / "protocol.json"
        if found.exists() and _weights_of(found) == completer.card.weights_sha256:
            say(f"{found.parent}: kept")
            continue
        with ProgressBar(name) as bar:
            evaluate_protocol(files, completer, output=found.parent, progress=bar.show)
    published = by_method(evaluate_published({MODEL: Model(completer)} | baseline_methods()))
    (output / "published.txt").write_text(published + "\n")
    say(published)


def update_pages(output: Path) -> None:
    """Puts tables and pictures of the reports into the model's card and the README.

    Raises:
        DataError: A page has no place for its table.
    """
    unseen = json.loads((output / "unseen" / "protocol.json").read_text())
    tables = {name: (output / name / "protocol.md").read_text() for name in ("unseen", "held_out")}
    readme = replaced(README, {"unseen": summary(unseen["cells"])})
    card = replaced(CARD, tables)
    README.write_text(readme)
    CARD.write_text(card)
    _shrink(output / "held_out" / "worst.png", RELEASED_MODEL / "worst.jpg")
    with tempfile.TemporaryDirectory() as folder:
        figure = Path(folder) / "figure.png"
        _draw_examples(figure)
        _shrink(figure, RELEASED_MODEL / "examples.jpg")
    say(f"read again what {CARD} and {README} say of them")


def summary(cells: Iterable[Mapping[str, Any]]) -> str:
    """The README's table: best baseline and model on spirals at constant speed."""
    errors = {
        (cell["coverage"], cell["noise"]): [
            f"{100 * cell['methods'][name]['rmse']['mean']:.2f}"
            for name in (cell["best_baseline"], MODEL)
        ]
        for cell in cells
        if cell["geometry"] == "archimedean"
    }
    rows = [
        [coverage, *errors[coverage, "none"], *errors[coverage, "reference"]]
        for coverage in dict.fromkeys(coverage for coverage, _ in errors)
    ]
    header = ["no noise: classical", "no noise: released model", "noise: classical"]
    return markdown_table(["coverage", *header, "noise: released model"], rows)


def replaced(file: Path, texts: Mapping[str, str]) -> str:
    """A Markdown file with these texts between the comments of their names.

    Raises:
        DataError: The comments are not there.
    """
    whole = file.read_text()
    for name, text in texts.items():
        before, begin, rest = whole.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        if not begin or not end:
            raise DataError(
                expected=f"<!-- {name} --> and <!-- /{name} -->",
                found="not both",
                where=file,
                fix="put them around its table",
            )
        whole = f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
    return whole


def _weights_of(protocol: Path) -> str:
    return str(json.loads(protocol.read_text())["setup"]["model_sha256"])


def _draw_examples(path: Path) -> None:
    methods: dict[str, Method] = {
        "Spline": Baseline("spline"),
        "Released model": Model(load_completer()),
    }
    files = {file.stem: file for file in example_micrographs()}
    examples = []
    for name, coverage, noise in EXAMPLES:
        crops = load_micrographs(files[name], max_images=1).crops
        (scan,) = simulate(crops, Condition("archimedean", coverage, noise))
        completions = {heading: method(scan).image for heading, method in methods.items()}
        note = f"{scan.coverage}, noise {scan.noise}"
        examples.append(CompletionExample(name, scan, completions, note))
    save_png(completion_figure(examples), path)


def _shrink(figure: Path, target: Path) -> None:
    with Image.open(figure) as picture:
        height = picture.height * WIDTH_PX // picture.width
        small = picture.convert("RGB").resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
        small.save(target, quality=82)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("micrographs", nargs="+", help="files, folders, globs")
    parser.add_argument("--output", type=Path, required=True, help="folder of reports")
    options = parser.parse_args(arguments)
    evaluate_released(options.micrographs, options.output)
    update_pages(options.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

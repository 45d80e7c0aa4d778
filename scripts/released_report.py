"""Evaluates the released model, and brings the tables and pictures that tell of it up to date.

    python scripts/released_report.py MICROGRAPHS --output report

The evaluation protocol runs on MICROGRAPHS, of sources that the model was never trained on, and on
the bundled micrographs of the sources held out from its training, side by side on two cores for a
quarter of an hour. OUTPUT then holds

    unseen/, held_out/   what `stem-complete evaluate --protocol` writes of either
    published.txt        what `stem-complete evaluate --published` prints

A protocol that is there, of the same weights, is kept: remove its folder to evaluate other data.
The tables take the place of those between <!-- NAME --> and <!-- /NAME --> in the model's card and
in the README; of the pictures only bundled micrographs become part of the repository. What the text
beside them says is to be read again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stem_complete.config import NoNoiseConfig, ReferenceNoiseConfig
from stem_complete.console import say
from stem_complete.data.bundled import example_micrographs
from stem_complete.evaluation import (
    Baseline,
    CompletionExample,
    Condition,
    completion_figure,
    load_micrographs,
    markdown_table,
    simulate,
)
from stem_complete.inference import RELEASED_MODEL, load_completer, read_card
from stem_complete.vocabulary import INTENSITY_RANGE

README = Path(__file__).parents[1] / "README.md"
CARD = RELEASED_MODEL / "README.md"
HELD_OUT = ("bshev", "rem", "sjeon")  # those of scripts/released_store.py that are bundled
EXAMPLES = (
    ("rem_srtio3", 1 / 20, "reference"),
    ("rem_srtio3", 1 / 50, "none"),
    ("bshev_nps_1", 1 / 20, "reference"),
    ("sjeon_ptporph5", 1 / 20, "reference"),
)
WIDTH_PX = 1200


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("micrographs", nargs="+", help="files, folders, globs")
    parser.add_argument("--output", type=Path, required=True, help="folder of reports")
    options = parser.parse_args()
    held_out = [str(file) for file in example_micrographs() if file.name.startswith(HELD_OUT)]
    _evaluate({"unseen": options.micrographs, "held_out": held_out}, options.output)
    unseen = json.loads((options.output / "unseen" / "protocol.json").read_text())
    readme = _replaced(README, {"unseen": summary(unseen["cells"])})
    names = ("unseen", "held_out")
    card = _replaced(
        CARD, {name: (options.output / name / "protocol.md").read_text() for name in names}
    )
    README.write_text(readme)
    CARD.write_text(card)
    _shrink(options.output / "held_out" / "worst.png", RELEASED_MODEL / "worst.jpg")
    with tempfile.TemporaryDirectory() as folder:
        figure = Path(folder) / "figure.png"
        _draw_examples(figure)
        _shrink(figure, RELEASED_MODEL / "examples.jpg")
    say(f"read again what {CARD} and {README} say of them")


def _evaluate(data: dict[str, Sequence[str]], output: Path) -> None:
    weights = read_card(RELEASED_MODEL).weights_sha256
    running = {}
    for name, files in data.items():
        found = output / name / "protocol.json"
        if found.exists() and json.loads(found.read_text())["setup"]["model_sha256"] == weights:
            say(f"{found.parent}: kept")
            continue
        arguments = [part for file in files for part in ("--data", file)]
        # Side by side, each on its core; the first one tells how far it is.
        running[name] = _stem_complete(
            [
                "evaluate",
                "--protocol",
                "--model",
                "released",
                *arguments,
                "--output",
                str(found.parent),
            ],
            quiet=bool(running),
        )
    running["published"] = _stem_complete(
        ["evaluate", "--model", "released", "--published"], quiet=True
    )
    printed = {name: process.communicate()[0] for name, process in running.items()}
    failed = [name for name, process in running.items() if process.returncode]
    if failed:
        raise SystemExit(f"evaluating {' and '.join(failed)} failed; do it alone to see why")
    (output / "published.txt").write_text(printed["published"])
    say(printed["published"])


def _stem_complete(arguments: list[str], *, quiet: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "stem_complete", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
    )


def summary(cells: Iterable[dict[str, Any]]) -> str:
    """The README's table: best baseline and model on spirals at constant speed."""
    errors: dict[str, dict[str, tuple[str, str]]] = {}
    for cell in cells:
        if cell["geometry"] == "archimedean":
            best, model = (
                cell["methods"][name]["rmse"]["mean"] for name in (cell["best_baseline"], "model")
            )
            pair = (f"{100 * best:.2f}", f"{100 * model:.2f}")
            errors.setdefault(cell["coverage"], {})[cell["noise"]] = pair
    return markdown_table(
        [
            "coverage",
            *("no noise: classical", "no noise: released model"),
            *("noise: classical", "noise: released model"),
        ],
        [[coverage, *row["none"], *row["reference"]] for coverage, row in errors.items()],
    )


def _replaced(file: Path, texts: dict[str, str]) -> str:
    """A Markdown file with these texts between the comments of their names."""
    whole = file.read_text()
    for name, text in texts.items():
        before, begin, rest = whole.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        if not begin or not end:
            both = f"<!-- {name} --> and <!-- /{name} -->"
            raise SystemExit(f"expected {both} in {file}; put them around its table")
        whole = f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
    return whole


def _draw_examples(path: Path) -> None:
    completer = load_completer()
    files = {file.stem: file for file in example_micrographs()}
    examples = []
    for name, coverage, noise in EXAMPLES:
        crops = load_micrographs(files[name], max_images=1).crops
        noise_model = NoNoiseConfig() if noise == "none" else ReferenceNoiseConfig()
        (scan,) = simulate(crops, Condition("archimedean", coverage, noise_model))
        classical = Baseline("spline")(scan)
        completed = completer.complete_scan(scan.partial, error_map=False)
        examples.append(
            CompletionExample(
                name=name,
                truth=scan.truth,
                intensity=scan.partial.intensity,
                baseline=classical.image,
                completion=completed.image,
                intensity_range=INTENSITY_RANGE,
                note=f"{scan.coverage}, {'no' if noise == 'none' else 'published'} noise",
            )
        )
    completion_figure(examples, path, baseline_name="Spline", completion_name="Released model")


def _shrink(figure: Path, target: Path) -> None:
    with Image.open(figure) as picture:
        height = picture.height * WIDTH_PX // picture.width
        small = picture.convert("RGB").resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
        small.save(target, quality=82)


if __name__ == "__main__":
    main()

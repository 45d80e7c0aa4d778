"""Evaluates the released model, and brings the tables and pictures that show it up to date.

    python -m stem_complete.experiments.release.report MICROGRAPHS --output report

Run it in the repository. The evaluation protocol and the comparison at equal dose run on
MICROGRAPHS, of sources that the model was never trained on, and the protocol's spirals on the
bundled micrographs of the sources held out from its training: some hours on one core. Cells of the
same weights and data that are in OUTPUT are kept, so that it may be stopped and started again.
OUTPUT then holds

    unseen/, held_out/   what `stem-complete evaluate --protocol` writes of either
    equal_dose/          what `stem-complete evaluate --equal-dose` writes
    published.txt        what `stem-complete evaluate --published` prints

The tables take the place of those between <!-- NAME --> and <!-- /NAME --> in the model's card and
in the README: `unseen`, and in the card `held_out` and `equal_dose`. `--part unseen` evaluates and
updates that alone. Of the pictures only bundled micrographs become part of the repository. Read
again what the text beside them says.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from stem_complete.config import DetectorNoiseConfig, NoiseConfig, ReferenceNoiseConfig
from stem_complete.console import ProgressBar, errors_in_one_line, say
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.splits import CROP_OF_ONE_FIELD
from stem_complete.errors import DataError
from stem_complete.evaluation import (
    MODEL,
    PROTOCOL,
    Baseline,
    Cell,
    CompletionExample,
    Condition,
    Method,
    Model,
    Report,
    baseline_methods,
    by_condition,
    by_method,
    chosen,
    compare_at_equal_dose,
    completion_figure,
    equal_dose_tables,
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
_COUNTED = DetectorNoiseConfig(dose_electrons_per_px=(100.0, 100.0))
EXAMPLES: tuple[tuple[str, float, NoiseConfig], ...] = (
    ("rem_srtio3", 1 / 20, ReferenceNoiseConfig()),
    ("rem_srtio3", 1 / 50, _COUNTED),
    ("bshev_nps_1", 1 / 20, _COUNTED),
    ("sjeon_ptporph5", 1 / 20, ReferenceNoiseConfig()),
)
SHOWN = ("lissajous", "hilbert", "line_hop", "random")  # in the README, beside spirals
WIDTH_PX = 1200


PARTS = ("unseen", "held_out", "equal_dose")


def evaluate_released(
    unseen: Sequence[str],
    output: Path,
    more_baselines: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
) -> dict[str, Report]:
    """Evaluates the released model, and writes what is found to `output`: reports by part."""
    completer = load_completer()
    held_out = [file for file in example_micrographs() if file.name.startswith(HELD_OUT)]
    protocols: dict[str, tuple[Sequence[str | Path], Sequence[Condition]]] = {
        "unseen": (unseen, PROTOCOL),
        "held_out": (held_out, chosen(["archimedean *"])),
    }
    found = {}
    for name, (files, conditions) in protocols.items():
        if name not in parts:
            continue
        with ProgressBar(name) as bar:
            found[name] = evaluate_protocol(
                files,
                completer,
                conditions=conditions,
                more_baselines=more_baselines,
                group_pattern=CROP_OF_ONE_FIELD,  # as in the figures of earlier releases
                output=output / name,
                progress=bar.show,
            ).whole()
    if "equal_dose" in parts:
        with ProgressBar("equal dose") as bar:
            found["equal_dose"] = compare_at_equal_dose(
                unseen,
                completer,
                group_pattern=CROP_OF_ONE_FIELD,
                output=output / "equal_dose",
                progress=bar.show,
            ).whole()
    published = by_method(evaluate_published({MODEL: Model(completer)} | baseline_methods()))
    (output / "published.txt").write_text(published + "\n")
    say(published)
    return found


def update_pages(reports: Mapping[str, Report], output: Path) -> None:
    """Puts tables and pictures of the reports into the model's card and the README.

    Args:
        reports: By part.
        output: Their folder.

    Raises:
        DataError: A page has no place for its table.
    """
    tables: dict[str, Callable[[Report], str]] = {
        "unseen": lambda report: by_condition(report, every_cell=False),
        "held_out": by_condition,
        "equal_dose": equal_dose_tables,
    }
    card = replaced(CARD, {name: tables[name](report) for name, report in reports.items()})
    if "unseen" in reports:
        readme = replaced(README, {"unseen": summary(reports["unseen"].cells())})
        README.write_text(readme)
        shutil.copy(output / "unseen" / "protocol.csv", RELEASED_MODEL / "protocol.csv")
    CARD.write_text(card)
    for name, picture in (
        ("unseen", "ratios"),
        ("equal_dose", "equal_dose"),
        ("held_out", "worst"),
    ):
        if name in reports:
            _shrink(output / name / f"{picture}.png", RELEASED_MODEL / f"{picture}.jpg")
    with tempfile.TemporaryDirectory() as folder:
        figure = Path(folder) / "figure.png"
        _draw_examples(figure)
        _shrink(figure, RELEASED_MODEL / "examples.jpg")
    say(f"read again what {CARD} and {README} say of them")


def summary(cells: Sequence[Cell]) -> str:
    """The README's table: the model's RMSE and ratios, on spirals and some other geometries."""
    others = [(geometry, "dose 100") for geometry in SHOWN]
    shown = [c for c in cells if c.geometry == "archimedean" or (c.geometry, c.noise) in others]
    coverages = list(dict.fromkeys(cell.coverage for cell in shown))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in shown:
        error = 100 * cell.methods[MODEL].typical_rmse
        row = rows.setdefault((cell.geometry.replace("_", " "), cell.noise), {})
        row[cell.coverage] = f"{error:.1f} ({cell.classical_ratio:.2f}, {cell.ratio:.2f})"
    lines = [[*names, *(row.get(key, "") for key in coverages)] for names, row in rows.items()]
    return markdown_table(["geometry", "noise", *coverages], lines)


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
    parser.add_argument("--baseline", action="append", default=[], help="a slow one too: bm3d")
    parser.add_argument("--part", action="append", choices=PARTS, help="this alone; repeatable")
    options = parser.parse_args(arguments)
    reports = evaluate_released(
        options.micrographs, options.output, options.baseline, options.part or PARTS
    )
    update_pages(reports, options.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()

"""Draws what the released model makes of bundled micrographs of sources it was not trained on.

python scripts/released_figure.py stem_complete/released/examples.jpg
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from stem_complete.data.examples import example_micrographs
from stem_complete.evaluation import CompletionExample, completion_figure, run_baselines
from stem_complete.inference import load_completer
from stem_complete.inference.known import RANGE, load_micrographs
from stem_complete.inference.protocol import simulate_protocol

ROWS = (
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
    parser.add_argument("output", type=Path, help="JPEG or PNG")
    output: Path = parser.parse_args().output
    completer = load_completer()
    files = {file.stem: file for file in example_micrographs()}
    examples = []
    for name, coverage, noise in ROWS:
        (micrograph,), _ = load_micrographs(files[name], max_images=1)
        (scan,) = simulate_protocol([micrograph], coverage, noise)
        classical = run_baselines(scan.intensity, scan.dwell, ["spline"], noisy=noise != "none")
        completed = completer.complete(scan.intensity, scan.dwell, intensity_range=RANGE)
        examples.append(
            CompletionExample(
                name=name,
                truth=scan.truth,
                intensity=scan.intensity,
                baseline=classical["spline"].image,
                completion=completed.image,
                intensity_range=RANGE,
                note=f"{scan.coverage}, {'no' if noise == 'none' else 'published'} noise",
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        figure = Path(folder) / "figure.png"
        completion_figure(
            examples, figure, baseline_name="Spline", completion_name="Released model"
        )
        with Image.open(figure) as picture:
            height = picture.height * WIDTH_PX // picture.width
            small = picture.convert("RGB").resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
            small.save(output, quality=82)


if __name__ == "__main__":
    main()

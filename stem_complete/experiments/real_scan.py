"""Completes a real sparse scan, and compares how well methods predict pixels of it.

    python -m stem_complete.experiments.real_scan spiral_s_00010_2019.npy --output docs

Writes `real_scan.md` and `images/real_scan.png` into the output folder. The truth of a real scan is
not known, so a tenth of its measured pixels is held out, five times, and predicted from the rest.
HyperSpy's own interpolation takes part where HyperSpy is installed.

The scan: https://github.com/ziatdinovmax/GPim, `expdata/spiral_s_00010_2019.npy`, MIT licence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import errors_in_one_line, say
from stem_complete.data.formats.scans import read_scans
from stem_complete.data.scans import RasterScan
from stem_complete.evaluation import baselines, save_png
from stem_complete.evaluation.figures import side_by_side
from stem_complete.files import write_atomically
from stem_complete.inference import Completer, load_completer
from stem_complete.vocabulary import format_coverage

Image = NDArray[np.float64]
Method = Callable[[RasterScan], NDArray[Any]]

NUM_DRAWS = 5
HELD_OUT = 0.1
WIDTHS = (0.1, 0.15, 0.2, 0.3, 0.4)
"""Of normalised convolution, in pitches; the best one is reported."""


def methods_for(completer: Completer) -> dict[str, Method]:
    """Methods by name, the model last."""
    methods: dict[str, Method] = {
        "nearest neighbour": baselines.nearest,
        "linear interpolation (SciPy)": baselines.linear,
        "biharmonic inpainting (scikit-image)": baselines.biharmonic,
    }
    if find_spec("hyperspy"):
        methods["rows interpolated (HyperSpy)"] = interpolated_rows
    for width in WIDTHS:
        methods[f"normalised convolution, {width:g} pitches"] = partial(
            baselines.normalised_convolution, sigma_pitches=width, dwell_exponent=0
        )
    methods |= {
        "first completion": baselines.adaptive_spline,
        "model alone": lambda scan: completer.complete_scan(scan, error_map=False).image,
        "model with self-check": lambda scan: (
            completer.complete_scan(scan, error_map=False, check=completer.self_check(scan)).image
        ),
    }
    return methods


def interpolated_rows(scan: RasterScan) -> Image:
    """Gaps of rows filled by HyperSpy, those at their ends by the mean."""
    from hyperspy.api import signals

    image = np.where(scan.measured, scan.intensity, scan.mean_and_std()[0])
    for row, measured in zip(image, scan.measured, strict=True):
        places = np.flatnonzero(measured)
        signal = signals.Signal1D(row.copy())
        for left, right in pairwise(places):
            if right - left > 1:
                signal.interpolate_in_between(
                    int(left) + 1, int(right), delta=1, show_progressbar=False
                )
        row[:] = signal.data
    return image


def errors(scan: RasterScan, methods: Mapping[str, Method]) -> dict[str, list[float]]:
    """Errors of held-out pixels, of each draw, in units of the pixels' standard deviation."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for draw in range(1, NUM_DRAWS + 1):
        drawn = np.random.default_rng(draw).random(scan.shape) < HELD_OUT
        held = scan.measured & drawn
        rest = RasterScan(
            np.where(held, np.nan, scan.intensity), np.where(held, 0, scan.dwell), where=scan.where
        )
        truth = scan.intensity[held]
        for name, method in methods.items():
            off = np.asarray(method(rest), np.float64)[held] - truth
            found[name].append(float(np.sqrt(np.mean(off**2)) / truth.std()))
        say(f"draw {draw} of {NUM_DRAWS}")
    return found


def draw(scan: RasterScan, completer: Completer, path: Path) -> None:
    """Draws the scan, its completions, and how far to trust the model's."""
    image, error = completer.complete_scan(scan, check=completer.self_check(scan))
    assert error is not None
    _, std = scan.mean_and_std()
    panels = {
        "scan": np.where(scan.measured, scan.intensity, np.nan),
        "model with self-check": image,
        "biharmonic (scikit-image)": baselines.biharmonic(scan),
        "linear (SciPy)": baselines.linear(scan),
    }
    save_png(side_by_side(panels, {"error to expect [deviations]": error / std}), path)


def report(scan: RasterScan, completer: Completer, found: Mapping[str, Sequence[float]]) -> str:
    """What was found, in Markdown."""
    convolutions = [name for name in found if name.startswith("normalised convolution")]
    best = min(convolutions, key=lambda name: float(np.mean(found[name])))
    rows = [
        f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |"
        for name, values in found.items()
        if name not in convolutions or name == best
    ]
    completed = completer.complete_scan(scan, check=completer.self_check(scan))
    assert completed.error is not None
    error = completed.error / scan.mean_and_std()[1]
    inside, corner = float(np.median(error)), float(error.max())
    hyperspy = "" if find_spec("hyperspy") else " HyperSpy was not installed."
    return f"""# A real sparse scan

A scanning probe's spiral over {scan.shape[0]} x {scan.shape[1]} px, of which it visited
{format_coverage(scan.coverage)}, from [GPim](https://github.com/ziatdinovmax/GPim)
(`expdata/spiral_s_00010_2019.npy`, MIT licence). Its gaps hold one constant, which `complete`
recognises: "{scan.notes[0] if scan.notes else ""}".

![scan, completions, error map](images/real_scan.png)

```sh
stem-complete complete spiral_s_00010_2019.npy --output completed/ --png --error-map
```

The truth is not known. So a tenth of the measured pixels was held out, {NUM_DRAWS} times, and
predicted from the rest: root mean square error in units of the pixels' standard deviation, mean and
range over the draws.

| method | error | range |
| --- | ---: | ---: |
{chr(10).join(rows)}

Self-check of the whole scan: {completer.self_check(scan).note.removeprefix("self-check: ")}.

The model was trained to return micrographs that are blurred over 5 px, and takes finer details for
noise. Here they are most of the contrast, so that alone it is worse than interpolation; the
self-check says so and mixes an interpolation in. In the corners, where the probe never was, the
completion is calm, and the error map rises from its median, {inside:.2f} of the scan's deviation,
to {corner:.2f}.{hyperspy}

Written by `stem_complete.experiments.real_scan` with the model {completer.card.name}
({completer.card.weights_sha256[:12]}).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scan", type=Path, help="file of one scan")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder (default: docs)")
    parser.add_argument("--model", help="model folder (default: the released model)")
    options = parser.parse_args(arguments)
    (read,) = read_scans(options.scan)
    scan, completer = read.raster(), load_completer(options.model, device="cpu")
    found = errors(scan, methods_for(completer))
    images = options.output / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw(scan, completer, images / "real_scan.png")
    write_atomically(options.output / "real_scan.md", report(scan, completer, found).encode())
    say(f"{options.output / 'real_scan.md'}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()

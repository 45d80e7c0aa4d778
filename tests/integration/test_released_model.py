"""The model that comes with the package, and what its training goes on from."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from stem_complete.config import (
    DetectorNoiseConfig,
    NoiseConfig,
    ReferenceNoiseConfig,
    load_config,
)
from stem_complete.data.bundled import example_micrographs, published_triples
from stem_complete.evaluation import (
    Baseline,
    Condition,
    Method,
    Model,
    load_micrographs,
    rmse,
    simulate,
)
from stem_complete.experiments.release.report import SHOWN
from stem_complete.experiments.release.training import RECIPE, REST
from stem_complete.experiments.release.warm_start import write_start
from stem_complete.inference import RELEASED_MODEL, Completer, load_completer, read_card
from stem_complete.inference.sources import load_model
from stem_complete.scan import archimedean, blur
from stem_complete.training import Checkpoints
from stem_complete.training.resume import check_same_run
from stem_complete.vocabulary import INTENSITY_RANGE, Geometry

REPOSITORY = Path(__file__).parents[2]
HELD_OUT = ("bshev", "rem", "sjeon")  # of experiments.release.store
CLASSICAL = ("normalised_convolution", "spline", "adaptive_spline")


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_its_files_are_as_small_as_promised() -> None:
    assert 0 < size(RELEASED_MODEL) <= 16 * 2**20
    assert 0 < REST.stat().st_size <= 2**17


def test_its_card_lists_what_it_was_trained_on_and_under_which_licences() -> None:
    sources = read_card(RELEASED_MODEL).training_data
    assert len(sources) > 40
    assert all(source.licence for source in sources)
    assert not [source.name for source in sources if source.name.startswith(HELD_OUT)]


def test_further_training_begins_at_its_step(tmp_path: Path) -> None:
    config = load_config([RECIPE], [f"storage={tmp_path}"])
    step = write_start(config, RELEASED_MODEL, REST)
    assert step == read_card(RELEASED_MODEL).metrics["train/steps"]
    checkpoint = Checkpoints(config.run_folder).latest()
    assert checkpoint is not None
    check_same_run(config, checkpoint.config, checkpoint.folder)
    assert checkpoint.step == step


CELLS = RELEASED_MODEL / "protocol.csv"
"""What `experiments.release.report` found."""


def test_card_and_readme_show_the_ratios_of_the_protocols_cells() -> None:
    card, readme = ((folder / "README.md").read_text() for folder in (RELEASED_MODEL, REPOSITORY))
    assert card.count(f"weights SHA-256 {read_card(RELEASED_MODEL).weights_sha256}") == 3
    with CELLS.open(newline="") as file:
        cells = {(c["geometry"], c["noise"], c["coverage"]): c for c in csv.DictReader(file)}
    assert len(cells) == 212

    def shown(text: str, number: int = 0) -> dict[tuple[str, str, str], str]:
        part = text.partition("<!-- unseen -->")[2].partition("<!-- /unseen -->")[0]
        tables = re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE)
        lines = tables[number].splitlines()
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        return {
            (row[0].replace(" ", "_"), row[1], coverage): value
            for row in rows
            for coverage, value in zip(header[2:], row[2:], strict=True)
            if value
        }

    for number, ratio in enumerate(("ratio", "classical_ratio")):
        expected = {key: f"{float(cell[ratio]):.2f}" for key, cell in cells.items()}
        assert shown(card, number) == expected
    of_readme = shown(readme)
    assert of_readme.keys() == {
        key
        for key in cells
        if key[0] == "archimedean" or (key[0] in SHOWN and key[1] == "dose 100")
    }
    for key, text in of_readme.items():
        error, *ratios = (
            float(cells[key][name]) for name in ("model_rmse", "classical_ratio", "ratio")
        )
        assert text == f"{100 * error:.1f} ({ratios[0]:.2f}, {ratios[1]:.2f})"


@pytest.fixture(scope="module")
def held_out() -> list[Path]:
    return [file for file in example_micrographs() if file.name.startswith(HELD_OUT)]


@pytest.mark.parametrize(
    ("geometry", "coverage", "noise", "most"),
    [
        ("archimedean", 1 / 10, ReferenceNoiseConfig(), 0.95),
        ("archimedean", 1 / 20, ReferenceNoiseConfig(), 0.95),
        ("archimedean", 1 / 20, DetectorNoiseConfig(dose_electrons_per_px=(20, 20)), 1.0),
        ("line_hop", 1 / 10, DetectorNoiseConfig(dose_electrons_per_px=(100, 100)), 1.0),
    ],
)
def test_it_beats_tuned_baselines_on_noisy_scans_of_sources_it_has_not_seen(
    held_out: list[Path], geometry: Geometry, coverage: float, noise: NoiseConfig, most: float
) -> None:
    crops = load_micrographs([str(file) for file in held_out], max_per_field=1).crops
    methods: dict[str, Method] = {name: Baseline(name) for name in CLASSICAL}
    methods["model"] = Model(load_completer())
    errors = np.array(
        [
            [
                rmse(scan.truth, method(scan).image, intensity_range=INTENSITY_RANGE)
                for method in methods.values()
            ]
            for scan in simulate(crops, Condition(geometry, coverage, noise))
        ]
    )
    *classical, model = np.exp(np.log(errors).mean(0))
    assert model < most * min(classical)
    # The worst of these four images is 1.10 along a dense spiral; the protocol tells of all.
    assert (errors[:, -1] <= 1.15 * errors[:, :-1].min(1)).all()


def test_complete_takes_it_where_no_model_is_given(tmp_path: Path) -> None:
    triple = published_triples()[0]
    output = tmp_path / "completed.tif"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stem_complete", "complete", str(triple.scan), "--published"),
            *("--dwell", str(triple.dwell), "--output", str(output)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # It knows this coverage and says nothing of it, but how well it predicts what was held out.
    assert "coverage" not in done.stderr
    (ratio,) = re.findall(r", (\d\.\d\d) of the classical completion's error\n", done.stderr)
    assert 0.5 < float(ratio) < 1
    image = tifffile.imread(output)
    assert image.shape == (512, 512)
    assert np.isfinite(image).all()


@pytest.mark.parametrize("name", ["bshev_nps_1", "rem_srtio3", "sjeon_ptporph_1h_3"])
def test_tiles_change_a_completion_by_less_than_a_tenth_of_its_error(name: str) -> None:
    (path,) = (each for each in example_micrographs() if each.stem == name)
    image = tifffile.imread(path)[:256, :256].astype(np.float32)
    image = (image - image.mean()) / image.std()
    truth = blur(torch.from_numpy(image)[None, None])[0, 0].numpy()
    dwell = archimedean(image.shape, "1/20").dwell_map().numpy()
    noisy = image + 0.2 * np.random.default_rng(0).standard_normal(image.shape)
    model = load_model()
    whole, tiled = (
        Completer(model, "cpu", tile_px=side, overlap_px=64).complete(noisy, dwell).image
        for side in (256, 128)
    )
    error = np.sqrt(np.mean((whole - truth) ** 2))
    assert np.sqrt(np.mean((tiled - whole) ** 2)) < 0.1 * error

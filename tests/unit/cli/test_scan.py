"""The command that writes scan paths."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

from stem_complete.scan import GEOMETRIES, archimedean, line_hop


@pytest.fixture
def undrawn(replaced):
    """What would be drawn: calls of `save_png`."""
    return replaced("stem_complete.evaluation.page.save_png")


def test_a_path_is_written_drawn_and_described(run, tmp_path):
    output = tmp_path / "path.csv"
    options = ("--coverage", "1/8", "--shape", "48,40", "--full-dwell-us", 10)
    done = run("scan", "archimedean", *options, "--output", output)
    assert (done.code, done.error) == (0, "")
    path = archimedean((48, 40), "1/8")
    table = np.loadtxt(output, delimiter=",", skiprows=8)
    np.testing.assert_allclose(table[:, :2], path.positions, atol=5.1e-5)
    np.testing.assert_allclose(table[:, 3], 10 * path.dwell.double(), rtol=1e-8)
    assert min(imread(tmp_path / "path.png").shape[:2]) > 500
    lines = dict(line.split("  ", 1) for line in done.output.splitlines())
    lines = {key: text.strip() for key, text in lines.items()}
    assert lines["path"] == f"{output}, drawn in {tmp_path / 'path.png'}"
    assert lines["coverage"] == "1/8 (0.125), asked for 1/8"
    assert lines["samples"] == f"{len(path.positions):,}"
    dwell = float(path.dwell.double().sum())
    assert lines["time"].startswith(f"{dwell:.6g} full pixel dwells, {dwell / 100:.4g} ms, without")
    assert set(lines) == {
        "path", "coverage", "samples", "time", "travel", "longest jump", "nearest sample",
    }  # fmt: skip


def test_seeds_and_json(run, tmp_path, undrawn):
    output = tmp_path / "path.npz"
    options = ("--coverage", "0.125", "--shape", 32, "--seed", 3, "--pixel-size-nm", 0.1)
    done = run("scan", "line_hop", *options, "--output", output, "--json")
    values = json.loads(done.output)
    path = line_hop((32, 32), 1 / 8, 3)
    assert values["coverage"] == pytest.approx(1 / 8)
    assert values["coverage_asked"] == 1 / 8
    assert (values["samples"], values["geometry"]) == (len(path.positions), "line_hop")
    assert (values["path"], values["picture"]) == (str(output), str(tmp_path / "path.png"))
    with np.load(output) as read:
        np.testing.assert_array_equal(read["positions"], path.positions)
        assert read["pixel_size_nm"] == 0.1
        assert read["seed"] == 3
    assert undrawn[0].args[1] == tmp_path / "path.png"


def test_a_true_coverage_that_is_not_the_asked_one_is_told(run, tmp_path, undrawn):
    done = run("scan", "nominal", "--output", tmp_path / "path.npz")
    assert "1/22.1 (0.045" in done.output
    assert "asked for 1/20" in done.output


def test_all_geometries_are_listed(run):
    done = run("scan", "--list")
    assert done.code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == list(GEOMETRIES)
    assert "sparse_rows" in done.output
    assert [line for line in done.output.splitlines() if "--seed" in line and "hop" in line]


def test_all_geometries_are_drawn(run, tmp_path, undrawn):
    options = ("--list", "--coverage", "1/8", "--shape", 32)
    done = run("scan", *options, "--output", tmp_path / "all.png")
    assert done.code == 0
    figure, file = undrawn[0].args
    assert file == tmp_path / "all.png"
    assert sum(bool(axes.images) for axes in figure.axes) == len(GEOMETRIES)


MISUSES = {
    "no geometry": ([], "scan: expected a geometry and an --output, or --list, found no geometry"),
    "no output": (["hilbert"], "found no --output; for example: stem-complete scan archimedean"),
    "unknown": (["zigzag", "--output", "x.csv"], "'zigzag' is not one of 'archimedean'"),
    "coverage": (["hilbert", "--coverage", "20"], "--coverage: expected a coverage, found coverage "
                 "must be in (0, 1], got 20; did you mean 0.2?"),
    "shape": (["hilbert", "--shape", "512x512"], "--shape: expected a height and a width of 2 px "
              "or more, as 512,384, or a side, as 512, found 512x512"),
    "tiny": (["hilbert", "--shape", "1,64"], "found 1,64"),
    "three": (["hilbert", "--shape", "2,3,4"], "found 2,3,4"),
    "dwell": (["hilbert", "--full-dwell-us", "0", "--output", "x.csv"],
              "--full-dwell-us: expected a finite number above 0, found 0.0"),
    "pixel": (["hilbert", "--pixel-size-nm", "nan", "--output", "x.csv"], "found nan"),
    "suffix": (["hilbert", "--shape", "32", "--output", "x.txt"],
               "x.txt: expected a path file ending in .csv, .npz, .json, found .txt"),
    "impossible": (["drawn", "--coverage", "1", "--shape", "32,64", "--output", "x.csv"],
                   "scan drawn: expected a shape and a coverage that the geometry can have, found "
                   "coverage 1 is more than a drawn spiral can have"),
    "list": (["--list", "--output", "x.csv"], "expected a .png for the picture of all geometries"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISUSES.values(), ids=MISUSES)
def test_misuse_is_told_in_one_line_and_writes_nothing(
    run, tmp_path, monkeypatch, undrawn, arguments, message
):
    monkeypatch.chdir(tmp_path)
    done = run("scan", *arguments)
    assert done.code == 2
    assert message in done.error
    assert len(done.error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert not undrawn

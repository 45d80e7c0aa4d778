"""Micrographs x conditions evaluated by workers on Ray, as a user does it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import ENVIRONMENT
from waiting import wait_until

from stem_complete.data.bundled import example_micrographs

pytestmark = pytest.mark.ray

# Of sources that the released model was never trained on.
MICROGRAPHS = [
    file for file in example_micrographs() if file.stem in ("rem_srtio3", "sjeon_ptporph5")
]
COVERAGES, METHODS = ("1/5", "1/10", "1/20"), ("model", "nearest")
NUM_UNITS = len(COVERAGES) * 2


def start(output: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stem_complete", "evaluate", "--model", "released"]
    for micrograph in MICROGRAPHS:
        command += ["--data", str(micrograph)]
    for coverage in COVERAGES:
        command += ["--coverage", coverage]
    command += ["--dose", "100", "--atom-columns", "--baseline", "nearest"]
    return subprocess.Popen(
        [*command, "--output", str(output), *options],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=output.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


def num_done(output: Path) -> int:
    manifest = output / ".stem-complete" / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def test_two_workers_whose_driver_is_killed_give_the_bytes_of_one_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    finish(start(here))

    on_ray = ("--ray", "--workers", "2")
    killed = start(there, *on_ray)
    wait_until(lambda: num_done(there) or killed.poll() is not None, "a scan that is done")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = num_done(there)
    assert 0 < before < NUM_UNITS

    finish(start(there, *on_ray))
    assert num_done(there) == NUM_UNITS, "no scan was done twice"
    written = sorted(path.name for path in here.iterdir() if path.is_file())
    assert written == ["details.png", "evaluation.md", "scores.csv"]
    for name in written:
        assert (there / name).read_bytes() == (here / name).read_bytes(), name

    rows = list(csv.DictReader((there / "scores.csv").read_text().splitlines()))
    assert len(rows) == NUM_UNITS * len(METHODS)
    lattices = {row["image"] for row in rows if row["num_columns"]}
    assert lattices == {"rem_srtio3 at 0, 0"}

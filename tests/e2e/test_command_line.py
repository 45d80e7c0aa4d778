"""The commands one after the other, on real micrographs, as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from training_runs import SMALLEST

import stem_complete
from stem_complete.extras import install_command

ROOT = Path(stem_complete.__file__).parents[1]
EXAMPLES = Path(stem_complete.__file__).parent / "examples"
CONFIGS = Path(stem_complete.__file__).parent / "configs"
SMALL = (
    "scan.coverage=1/20",
    "model.encoding=filled",
    "training.steps=20",
    "training.log_every_steps=2",
    "training.validate_every_steps=10",
    "training.validation_examples=4",
    "training.calibration_scans=8",
    "training.checkpoint_every_steps=5",
)

KINDS = [("store.zarr", "store"), ("runs/compact", "run"), ("runs/compact/model", "model")]


def command(*arguments, code=0, cwd=None, env=os.environ):
    done = subprocess.run(
        [sys.executable, "-m", "stem_complete", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which a store was made and a model trained by the commands."""
    folder = tmp_path_factory.mktemp("work")
    micrographs = sorted(
        (EXAMPLES / "micrographs").glob("*.tif"), key=lambda file: file.stat().st_size
    )[:4]
    report = command(
        "ingest", *micrographs, "--store", folder / "store.zarr", "--crop-size", 64, "--json"
    )
    assert json.loads(report.stdout)["num_added"] > 100
    done = command(
        *("train", CONFIGS / "compact.yaml", f"storage={folder / 'runs'}"),
        *(f"data.store={folder / 'store.zarr'}", *SMALL, "--local", "--json"),
        env=os.environ | {"PATH": "/usr/bin:/bin"},
    )
    assert json.loads(done.stdout)[0]["step"] == 20
    assert "20/20" in done.stderr
    folder.joinpath("training.log").write_text(done.stderr)
    return folder


def test_ingesting_again_adds_nothing(work):
    micrographs = sorted(
        (EXAMPLES / "micrographs").glob("*.tif"), key=lambda file: file.stat().st_size
    )[:4]
    again = command("ingest", *micrographs, "--store", work / "store.zarr", "--json")
    report = json.loads(again.stdout)
    assert report["num_added"] == 0
    assert len(report["already_there"]) == 4


def test_the_model_completes_the_published_scans(work):
    published = EXAMPLES / "published"
    out = work / "completed"
    command(
        *("complete", published / "partial_scan-*.tif", "--dwell", published / "mask-{number}.tif"),
        *("--published", "--model", work / "runs" / "compact", "--output", out),
        *("--png", "--error-map"),
    )
    for number in (1, 2, 3):
        image = tifffile.imread(out / f"partial_scan-{number}_completed.tif")
        truth = 2 * tifffile.imread(published / f"truth-{number}.tif") - 1
        error = tifffile.imread(out / f"partial_scan-{number}_error.tif")
        assert image.shape == error.shape == (512, 512)
        assert image.dtype == error.dtype == np.float32
        assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.25
        assert (error > 0).all()
        assert (out / f"partial_scan-{number}_completed.png").stat().st_size > 1000
    again = command(
        *("complete", published / "partial_scan-*.tif", "--dwell", published / "mask-{number}.tif"),
        *("--published", "--model", work / "runs" / "compact", "--output", out, "--json"),
    )
    assert len(json.loads(again.stdout)["skipped"]) == 3


def test_it_beats_linear_interpolation_on_the_published_scans(work):
    report = command(
        *("evaluate", "--model", work / "runs" / "compact", "--published", "--json"),
        *("--baseline", "linear", "--baseline", "nearest"),
    )
    (cell,) = json.loads(report.stdout)["cells"]
    rmse = {name: found["rmse"]["mean"] for name, found in cell["methods"].items()}
    assert rmse["model"] < rmse["linear"] < rmse["nearest"]


def test_every_command_that_is_printed_runs_in_a_shell_without_the_environment(work):
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(work), "PYTHONPATH": str(ROOT)}
    printed = work.joinpath("training.log").read_text() + install_command("s3fs")
    for path, kind in KINDS:
        screen = command("inspect", work / path, env=bare).stdout
        assert screen.startswith(f"{kind} ")
        printed += screen
    folder = re.escape(str(Path(sys.executable).parent))
    called = re.findall(rf"(?:env \S+=\S+ )?{folder}/[\w-]+(?: -m \w+)? [a-z]+", printed)
    assert len(called) >= 8
    assert {Path(call.split()[-2]).name for call in called} >= {"mlflow", "pip"}
    for call in dict.fromkeys(called):
        done = subprocess.run(
            f"{call} --help", shell=True, capture_output=True, env=bare, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr


def test_compare_reads_what_training_tracked(work):
    out = work / "comparison"
    done = command(
        *("compare", "--uri", f"sqlite:///{work / 'runs' / 'mlflow.db'}", "--output", out)
    )
    assert "compact" in done.stdout
    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_training_goes_on(work):
    arguments = (
        *("train", CONFIGS / "compact.yaml", f"storage={work / 'runs'}", "name=interrupted"),
        *(f"data.store={work / 'store.zarr'}", *SMALL, SMALLEST, "--local"),
        "tracking.enabled=false",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "stem_complete", *map(str, arguments), "training.steps=100000"],
        stderr=subprocess.PIPE,
    )
    checkpoints = work / "runs" / "interrupted" / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert b"start it again to go on" in error
    assert not (work / "runs" / "interrupted" / "model").exists()
    reached = max(int(folder.name.split("-")[1]) for folder in checkpoints.glob("step-*"))
    done = command(*arguments, f"training.steps={reached + 5}")
    assert f"{reached + 5}/{reached + 5}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nothing.yaml"], 2, "nothing.yaml: expected a YAML file"),
        (["train", CONFIGS / "compact.yaml", "data.store=/nothing.zarr"], 1, "/nothing.zarr"),
        (["compare", "--uri", "sqlite:////tmp/nothing/x.db", "--output", "x"], 1, "nothing"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_clear_line(tmp_path, arguments, code, message):
    done = command(*arguments, code=code, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_program_explains_itself():
    assert "Examples" in command("train", "--help").stdout
    assert command("--version").stdout.strip() == stem_complete.__version__

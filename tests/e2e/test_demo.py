"""The demo as it is, but for fewer steps: real micrographs, two Ray workers, MLflow, a figure."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_whole_chain(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stem_complete", "demo", "--output", str(tmp_path / "demo")),
            *("training.steps=6", "training.log_every_steps=2", "training.validate_every_steps=3"),
            *("training.validation_examples=2", "training.checkpoint_every_steps=3"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    output = tmp_path / "demo"

    # Beside the classical methods, on the published scans.
    scores = json.loads((output / "scores.json").read_text())
    rmse = {summary["method"]: summary["rmse"]["mean"] for summary in scores["summaries"]}
    assert rmse.keys() == {
        "model",
        "released model",
        "nearest",
        "linear",
        "normalised_convolution",
        "harmonic",
        "spline",
        "total_variation",
    }
    assert rmse["model"] < 0.5 * rmse["linear"]
    assert rmse["released model"] < rmse["model"]
    assert "| model" in done.stdout

    # Progress, and where everything is.
    for part in (
        "6/6",
        "threshold",
        "examples/s",
        "validation RMSE",
        "mlflow ui",
        "completions.png",
    ):
        assert part in done.stderr
    assert (output / "completions.png").stat().st_size > 100_000
    assert len(list((output / "completed").glob("*_completed.tif"))) == 3
    assert len(list((output / "completed").glob("*_error.tif"))) == 3
    assert (output / "runs" / "mlflow.db").is_file()
    assert list((output / "runs" / "artifacts").rglob("validation-0.png"))
    # Nothing lands where it was started.
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]

"""Linters that are programs of their own, on the cluster's files."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "cluster"


@pytest.mark.parametrize("file", ["Dockerfile", "mlflow/Dockerfile"])
def test_hadolint_has_nothing_to_say(file):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, FOLDER / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

"""Importing is cheap: no ray, no mlflow, no figures, in a process of its own."""

import subprocess
import sys

import pytest


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import stem_complete", {"torch", "ray", "mlflow", "numpy"}),
        ("import stem_complete.cli", {"torch", "ray", "mlflow"}),
        (
            "from stem_complete import ALRC, load_completer, scan",
            {"ray", "mlflow", "matplotlib", "skimage"},
        ),
        ("import stem_complete.training", {"ray", "mlflow", "matplotlib"}),
        ("import stem_complete.tracking", {"mlflow", "ray"}),
        ("import stem_complete.launch", {"mlflow", "ray"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_importing_is_cheap(statement, absent):
    assert not loaded_after(statement) & absent

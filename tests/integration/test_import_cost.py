"""Importing is cheap: no ray, no mlflow, no figures, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


NOT_TO_LOAD_A_MODEL = (
    {"fsspec", "matplotlib", "mlflow", "numcodecs", "ray", "scipy", "skimage", "tifffile", "zarr"}
    | {"filelock", "stem_complete.config", "upath", "yaml"}
    | {"sympy"}  # of torch's compiler, which torch imports to compute on the meta device
)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import stem_complete", {"torch", "ray", "mlflow", "numpy"}),
        ("import stem_complete.cli", {"torch", "ray", "mlflow"}),
        (
            "from stem_complete import ALRC, PathScan, load_completer, scan; load_completer()",
            NOT_TO_LOAD_A_MODEL,
        ),
        (
            "from stem_complete.inference import *; load_completer(RELEASED_MODEL)",
            NOT_TO_LOAD_A_MODEL | {"hyperspy", "stem_complete.tracking", "xarray"},
        ),
        # With it come training and tracking.
        ("import stem_complete.launch.runs", {"ray", "mlflow", "matplotlib"}),
        ("import stem_complete.launch.mailbox", {"torch", "mlflow"}),
        (
            "import stem_complete.serving.batch",
            {"ray", "mlflow", "matplotlib", "zarr", "stem_complete.training"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_importing_is_cheap(statement, absent):
    assert not loaded_after(statement) & absent


def test_importing_readers_is_cheap() -> None:
    heavy = {"dask", "h5py", "imagecodecs", "matplotlib", "rsciio", "scipy", "skimage", "tifffile"}
    modules = ", ".join(
        f"stem_complete.data.{name}" for name in ("store.ingest", "formats.scans", "store.store")
    )
    code = f"import sys, {modules}; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_heavy_libraries_wait_until_needed_and_pyplot_is_never_imported(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import numpy as np
from stem_complete import evaluation
early = {{"matplotlib", "scipy", "skimage"}} & set(sys.modules)
assert not early, early
sheet = evaluation.contact_sheet([np.eye(9)], ["a"])
evaluation.save_png(sheet, Path({str(tmp_path / "a.png")!r}))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"MPLBACKEND": ""},
    )

"""The README's first commands and all Python of README and docs run as they are written.

Python that asks a service runs in `tests/integration/serving/service/test_serve.py`.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from stem_complete import scan
from stem_complete.data.bundled import example_micrographs

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SIZE = 128


@pytest.fixture
def folder(tmp_path):
    """A folder with what the README's commands take: scans, their dwell maps, micrographs."""
    for name in ("scans", "dwells", "images"):
        (tmp_path / name).mkdir()
    dwell = scan.archimedean((SIZE, SIZE), coverage="1/10").dwell_map().numpy()
    for file in example_micrographs()[:2]:
        image = tifffile.imread(file)[:SIZE, :SIZE].astype(np.float32)
        tifffile.imwrite(tmp_path / "images" / f"{file.stem}.tif", image)
        tifffile.imwrite(tmp_path / "scans" / f"{file.stem}.tif", np.where(dwell > 0, image, 0))
        tifffile.imwrite(tmp_path / "dwells" / f"{file.stem}.tif", dwell)
    return tmp_path


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command, comments=True)
    assert program == "stem-complete"
    return subprocess.run(
        [sys.executable, "-m", "stem_complete", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )


def first_command(text: str, start: str) -> str:
    match = re.search(rf"^{re.escape(start)} .*$", text, flags=re.M)
    assert match, start
    return match[0]


def test_the_first_command_completes_a_folder_of_scans(folder):
    done = run(first_command(README.read_text(), "stem-complete complete"), folder)
    assert "2 scans completed" in done.stdout
    names = {file.stem for file in (folder / "scans").iterdir()}
    written = {file.name for file in (folder / "completed").iterdir()}
    assert written >= {f"{name}_completed.tif" for name in names}
    assert written >= {f"{name}_error.tif" for name in names}
    assert any(name.endswith(".png") for name in written)


def snippets():
    for page in (README, *sorted((ROOT / "docs").glob("*.md"))):
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            if "import Client" in code:
                continue
            yield pytest.param(code, id=f"{page.name}: {code.strip().splitlines()[-1][:40]}")


@pytest.mark.parametrize("code", list(snippets()))
def test_python_runs_as_it_is_written(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    dwell = scan.archimedean((512, 512), coverage="1/20").dwell_map().numpy()
    image = np.random.default_rng(0).normal(size=dwell.shape).cumsum(0).astype(np.float32)
    names = {
        "partial": np.where(dwell > 0, image, 0),
        "per_example_losses": torch.rand(4, requires_grad=True),
    }
    exec(code, names)
    for name in ("image", "error"):
        if isinstance(names.get(name), np.ndarray):
            assert names[name].shape == dwell.shape
            assert np.isfinite(names[name]).all()


def test_the_notebook_runs_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["checked"].attrs == names["partial"].attrs

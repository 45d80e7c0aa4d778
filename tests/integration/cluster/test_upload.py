"""What `ray job submit --working-dir .` uploads: what a job needs, and little else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def upload(tmp_path_factory) -> Path:
    archive = tmp_path_factory.mktemp("upload") / "package.zip"
    create_package(str(ROOT), archive, include_gitignore=True)
    return archive


def test_it_is_small(upload):
    """Of which the released model is most: jobs complete scans with it."""
    assert upload.stat().st_size < 7_000_000


def test_it_has_the_package_and_nothing_else(upload):
    with zipfile.ZipFile(upload) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "stem_complete").rglob("*.py")
        if "examples" not in file.parts
    }
    assert package <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"stem_complete"}
    assert not [name for name in names if name.startswith("stem_complete/examples")]
    assert not [name for name in names if name.endswith(".jpg")]


def test_its_copy_runs(upload, tmp_path):
    with zipfile.ZipFile(upload) as archive:
        archive.extractall(tmp_path)
    code = (
        "from stem_complete import __file__, config, load_completer;"
        "config.load_config(['paper']); load_completer(); print(__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)

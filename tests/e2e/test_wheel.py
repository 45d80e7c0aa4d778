"""The wheel, installed outside the repository, in folders of its own.

Nothing is downloaded: the environment gets links to those installed packages that the wheel
requires.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import tifffile
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# What would lead back to the checkout.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "GLOO_SOCKET_IFNAME": "lo",
    "RAY_worker_niceness": "0",
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources, so that no earlier build's files slip in."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    shutil.copytree(
        ROOT / "stem_complete",
        sources / "stem_complete",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel and all that it requires."""
    return install(wheel, tmp_path_factory.mktemp("installed"))


def pip(*arguments):
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        check=True,
        env=ENVIRONMENT | {"PIP_NO_INDEX": "1"},
    )


def install(wheel: Path, folder: Path, *extras: str) -> Path:
    """A virtual environment with the wheel and what it requires with these extras."""
    venv.create(folder, symlinks=True)
    pip("--python", folder, "install", "--no-deps", "--no-compile", wheel)
    site = next(folder.glob("lib/python*/site-packages"))
    (this,) = (d for d in distributions(path=[str(site)]) if d.name == "stem-complete")
    for name in required(this.requires or [], extras):
        link(name, site)
    return folder


def required(lines: Iterable[str], extras: Iterable[str]) -> set[str]:
    """Names of the packages that these requirements bring, and what those require."""
    found: dict[str, set[str]] = {}
    waiting = [*applicable(lines, extras)]
    while waiting:
        requirement = waiting.pop()
        known = found.setdefault(requirement.name, set())
        new = {"", *requirement.extras} - known
        known |= new
        if new:
            waiting += applicable(distribution(requirement.name).requires or [], new)
    return set(found)


def applicable(lines: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def link(name: str, site: Path) -> None:
    """Links the files of an installed package into another environment."""
    package = distribution(name)
    for part in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
        if not (site / part).exists():
            (site / part).symlink_to(str(package.locate_file(part)))


def run(installed: Path, *arguments, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `stem-complete ...` of an environment, in a folder outside the repository."""
    done = subprocess.run(
        [installed / "bin" / "stem-complete", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=ENVIRONMENT,
    )
    assert done.returncode == code, done.stderr[-4000:]
    return done


def test_the_wheel_has_all_files_of_the_package(wheel):
    package = wheel.parent / "sources" / "stem_complete"
    files = {str(file.relative_to(package.parent)) for file in package.rglob("*") if file.is_file()}
    assert files == {
        name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("stem_complete/")
    }


def test_the_installed_package_is_the_one_that_is_imported(installed, tmp_path):
    code = "import stem_complete; print(stem_complete.__file__)"
    done = subprocess.run(
        [installed / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_it_completes_a_bundled_scan_in_another_folder(installed, tmp_path):
    folder = next(installed.glob("lib/python*/site-packages/stem_complete/examples/published"))
    run(
        installed,
        *("complete", folder / "partial_scan-1.tif", "--dwell", folder / "mask-1.tif"),
        *("--published", "--output", "completed.tif"),
        cwd=tmp_path,
    )
    assert tifffile.imread(tmp_path / "completed.tif").shape == (512, 512)


def test_a_config_that_is_not_bundled_is_an_error_that_lists_those_that_are(installed, tmp_path):
    done = run(installed, "train", "nonsense", cwd=tmp_path, code=2)
    assert "compact, comparison, demo" in done.stderr


@pytest.mark.ray
def test_the_demo_runs_the_whole_chain(installed, tmp_path):
    done = run(
        installed,
        *("demo", "--output", tmp_path / "demo", "training.steps=6", "training.log_every_steps=2"),
        *("training.validate_every_steps=3", "training.validation_examples=2"),
        "training.checkpoint_every_steps=3",
        cwd=tmp_path,
    )
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

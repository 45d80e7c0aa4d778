"""The wheel, installed outside the repository, in environments of their own.

Nothing is downloaded: an environment has links to those packages of the present one that the
wheel's requirements and extras name.
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

from stem_complete.evaluation import DEFAULT_BASELINES

ROOT = Path(__file__).parents[2]
# What would lead back to the checkout.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "GLOO_SOCKET_IFNAME": "lo",
    "RAY_worker_niceness": "0",
}


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
def core(wheel, tmp_path_factory) -> Path:
    """The environment of `pip install stem-complete`."""
    return install(wheel, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def full(wheel, tmp_path_factory) -> Path:
    """The environment of `pip install 'stem-complete[train]'`."""
    return install(wheel, tmp_path_factory.mktemp("full"), "train")


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


def run(program: Path, *arguments, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a program in a folder outside the repository."""
    done = subprocess.run(
        [program, *map(str, arguments)],
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
    files = {
        str(file.relative_to(package.parent))
        for file in package.rglob("*")
        if file.is_file() and file.parent.name != "next"  # a model that is not done
    }
    assert files == {
        name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("stem_complete/")
    }


IMPORT_ALL = """
import importlib, pkgutil, stem_complete
print(stem_complete.__file__)
for module in pkgutil.walk_packages(stem_complete.__path__, "stem_complete."):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(error.name.split(".")[0])
"""


def test_the_core_is_the_installed_package_and_lacks_nothing_but_what_extras_bring(core, tmp_path):
    done = run(core / "bin" / "python", "-c", IMPORT_ALL, cwd=tmp_path)
    package, *missing = done.stdout.split()
    assert Path(package).is_relative_to(core)
    serve = {"anyio", "fastapi", "prometheus_client", "starlette", "uvicorn"}
    assert set(missing) == {"ray", "requests", "magicgui", *serve}  # train, client, napari


def test_the_core_completes_a_bundled_scan_in_another_folder(core, tmp_path):
    folder = next(core.glob("lib/python*/site-packages/stem_complete/examples/published"))
    run(
        *(core / "bin" / "stem-complete", "complete", folder / "partial_scan-1.tif"),
        *("--dwell", folder / "mask-1.tif", "--published", "--output", "completed.tif"),
        cwd=tmp_path,
    )
    assert tifffile.imread(tmp_path / "completed.tif").shape == (512, 512)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "compact", "data.store=/data/store.zarr"),
        ("compare", "--uri", "http://localhost:5000", "--output", "comparison"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_core_says_in_one_line_how_to_get_what_a_command_needs(core, tmp_path, arguments):
    done = run(core / "bin" / "stem-complete", *arguments, cwd=tmp_path, code=1)
    assert done.stderr.count("\n") == 1
    assert "pip install 'stem-complete[train]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_the_demo_runs_the_whole_chain(full, tmp_path):
    done = run(
        *(full / "bin" / "stem-complete", "demo", "--output", tmp_path / "demo"),
        *("training.steps=2", "training.log_every_steps=1", "training.validate_every_steps=2"),
        *("training.validation_examples=1", "training.batch_size=2", "scaling.num_workers=1"),
        "training.calibration_scans=2",
        cwd=tmp_path,
    )
    output = tmp_path / "demo"

    # Beside the classical methods, on the published scans.
    scores = json.loads((output / "scores.json").read_text())
    rmse = {name: found["rmse"]["mean"] for name, found in scores["cells"][0]["methods"].items()}
    assert rmse.keys() == {"model", "released model", *DEFAULT_BASELINES}
    assert rmse["model"] < 0.5 * rmse["linear"]
    assert rmse["released model"] < rmse["model"]
    assert "| model" in done.stdout

    # Progress, and where everything is.
    for part in (
        "2/2",
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

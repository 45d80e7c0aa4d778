"""A command whose optional package is missing says so in one line, before it does anything."""

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stem_complete.config import load_config
from stem_complete.demo import run_demo
from stem_complete.errors import MissingPackageError
from stem_complete.extras import EXTRAS, install_command, program, require
from stem_complete.launch import launch
from stem_complete.tracking import TrackedRuns

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
# Packages that are installed by another name than they are imported by.
INSTALLED_AS = {
    "rsciio": "rosettasciio",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
TRAIN = r"pip install 'stem-complete\[train\]'"


@pytest.fixture
def without(monkeypatch):
    def block(*packages: str) -> None:
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)

    return block


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_is_named_brings_the_package_and_the_core_does_not(package):
    def names(lines: list[str]) -> set[str]:
        return {Requirement(line).name for line in lines}

    name = INSTALLED_AS.get(package, package)
    assert name in names(PYPROJECT["optional-dependencies"][EXTRAS[package]])
    assert name not in names(PYPROJECT["dependencies"])


def test_what_is_installed_is_not_missed():
    require("ray", "mlflow", purpose="training")


def test_training_names_all_that_it_misses(without, tmp_path):
    without("ray", "mlflow")
    config = load_config(["compact"], [f"storage={tmp_path / 'runs'}"])
    with pytest.raises(MissingPackageError, match=f"ray and mlflow.*{TRAIN}"):
        launch(config)
    assert list(tmp_path.iterdir()) == []


def test_training_in_one_process_does_without_ray(without, tmp_path):
    without("ray", "mlflow")
    config = load_config(["compact"], [f"storage={tmp_path / 'runs'}"])
    with pytest.raises(MissingPackageError, match=f"the package mlflow,.*{TRAIN}"):
        launch(config, local=True)


def test_comparing_needs_mlflow(without):
    without("mlflow")
    with pytest.raises(MissingPackageError, match=TRAIN):
        TrackedRuns("http://localhost:5000", "comparison").curves("train/outer_loss")


def test_the_demo_says_so_before_it_ingests(without, tmp_path):
    without("ray")
    with pytest.raises(MissingPackageError, match=f"demo: expected the package ray,.*{TRAIN}"):
        run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_installs_a_package_names_its_extra():
    assert install_command("rsciio") == f"{program('pip')} install 'stem-complete[microscopy]'"


class TestPrograms:
    """Are called as the shell that the user is in finds them."""

    @pytest.fixture
    def environment(self, tmp_path, monkeypatch):
        folder = tmp_path / "my environment" / "bin"
        self.add(folder, "python")
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        return folder

    def add(self, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch(0o755)

    def test_by_name_in_an_environment_that_is_activated(self, environment, monkeypatch):
        self.add(environment, "stem-complete")
        monkeypatch.setenv("PATH", f"{environment}:/usr/bin")
        assert program() == "stem-complete"

    def test_by_path_in_one_that_is_not(self, environment):
        self.add(environment, "mlflow")
        assert program("mlflow") == f"'{environment}/mlflow'"

    def test_by_path_where_the_name_leads_to_another_environment(
        self, environment, tmp_path, monkeypatch
    ):
        for folder in (environment, tmp_path / "other"):
            self.add(folder, "stem-complete")
        monkeypatch.setenv("PATH", str(tmp_path / "other"))
        assert program() == f"'{environment}/stem-complete'"

    def test_as_a_module_where_no_program_was_installed(self, environment):
        assert program() == f"'{environment}/python' -m stem_complete"

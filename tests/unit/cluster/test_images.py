"""Dockerfiles and the compose file: linted, complete, and of the versions that the project pins."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "cluster"
FILES = [
    path
    for path in sorted(FOLDER.rglob("*"))
    if path.is_file() and path.suffix != ".pyc" and path.name != ".env"
]
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "scripts/constraints.txt").read_text(), re.M))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMPOSE = yaml.safe_load((FOLDER / "mlflow" / "compose.yaml").read_text())


@pytest.mark.parametrize("file", ["Dockerfile", "mlflow/Dockerfile"])
def test_images_do_not_run_as_root(file):
    assert re.findall(r"^USER (\d+)$", (FOLDER / file).read_text(), re.M) == ["10001"]


def test_the_build_has_all_that_the_image_copies():
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed


def pins_in_files() -> list:
    """(file, package, version) wherever the cluster files name a version of what is pinned."""
    patterns = {
        "ray": r"rayVersion: \"(\S+)\"|ray\[default\]==([\d.]+)",
        "mlflow": r"mlflow==(\S+)|stem-complete-mlflow:([\d.]+)",
        "databricks-sdk": r"databricks-sdk==(\S+)",
        "boto3": r"boto3==(\S+)",
    }
    return [
        pytest.param(package, "".join(found), id=f"{file.relative_to(FOLDER)}-{package}")
        for file in FILES
        for package, pattern in patterns.items()
        for found in re.findall(pattern, file.read_text())
    ]


@pytest.mark.parametrize(("package", "version"), pins_in_files())
def test_versions_are_those_of_the_constraints(package, version):
    assert version == PINS[package]


def test_the_image_is_of_this_version():
    tags = {tag for file in FILES for tag in re.findall(r"/stem-complete:(\S+)", file.read_text())}
    assert tags == {VERSION}


def test_compose_services_fit_together():
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    for service in services.values():
        for needed, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in volumes
        image = service["image"]
        assert ":" in image
        assert not image.endswith(":latest")
    for name in ("database", "objects"):
        assert "ports" not in services[name], "only MLflow is reached from outside"


def test_compose_gets_its_secrets_from_a_file_that_is_not_here():
    needed = set(re.findall(r"\$\{(\w+):\?", (FOLDER / "mlflow" / "compose.yaml").read_text()))
    example = (FOLDER / "mlflow" / ".env.example").read_text()
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.M))
    assert needed <= set(given)
    assert all(not value for name, value in given.items() if "PASSWORD" in name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_files_hold_no_secrets(file):
    secret = r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret_access_key)[\"']?[:=] *[\"']?\w{8}"
    assert not re.search(secret, file.read_text())

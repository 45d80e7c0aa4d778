"""Imports point down the list."""

import ast
from pathlib import Path

import pytest

import stem_complete

PACKAGE = Path(stem_complete.__file__).parent

# Who may import whom: each layer those to its right.
LAYERS = [
    {"__main__"},
    {"cli", "napari"},
    {"benchmark", "demo", "inspection", "spikes", "summaries"},
    {"experiments"},
    {"serving"},
    {"launch"},
    {"evaluation"},
    {"inference"},
    {"tracking"},
    {"training"},
    {"distributed"},
    {"data"},
    {"models", "losses"},
    {"scan"},
    {"config"},
    {"storage"},
    {"extras"},
    {"console", "files", "time_limit", "vocabulary"},
    {"errors"},
    {"credentials", "client"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Heavy or outside: the only places that may import them, at any depth.
HOMES = {
    "ray": {"launch", "serving"},
    "mlflow": {"tracking"},
    "rsciio": {"data"},
    "zarr": {"data", "napari", "serving"},
    "typer": {"cli"},
    "dask": {"napari"},
    "magicgui": {"napari"},
    "napari": {"napari"},
    "matplotlib": {"evaluation"},
}
# The mathematics stands alone: anyone can copy these folders out.
PURE = {"scan", "models", "losses"}


def imports(file: Path) -> set[str]:
    """Full names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    own = part_of(file)
    assert own in RANK, f"{own} has no layer"
    for name in imports(file):
        top, *rest = name.split(".")
        if top == "stem_complete" and rest and rest[0] in RANK:
            assert rest[0] == own or RANK[rest[0]] > RANK[own], f"{own} imports {name}"
        if top in HOMES:
            assert own in HOMES[top], f"{own} imports {name}"
        if own in PURE and top == "stem_complete" and rest:
            assert rest[0] in PURE | {"errors", "vocabulary"}, f"{own} imports {name}"

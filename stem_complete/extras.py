"""What is installed: packages that only some commands need, and how their programs are called."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from stem_complete.errors import MissingPackageError

EXTRAS = {
    "ray": "train",
    "mlflow": "train",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "requests": "client",
    "rsciio": "microscopy",
    "s3fs": "s3",
    "pyarrow": "parquet",
    "bm3d": "bm3d",
    "trackpy": "atoms",
}
"""Extra that brings each package, by the name that is imported."""


def require(*packages: str, purpose: str) -> None:
    """Checks that these packages are installed.

    Args:
        packages: Names that are imported, keys of `EXTRAS`.
        purpose: What needs them, such as `training`.

    Raises:
        MissingPackageError: One of them is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            expected=f"the package {' and '.join(missing)}",
            found="none installed",
            where=purpose,
            fix=install_command(missing[0]),
        )


def install_command(package: str) -> str:
    """The command that installs a package with the extra that brings it."""
    return f"{program('pip')} install 'stem-complete[{EXTRAS[package]}]'"


def program(name: str = "stem-complete") -> str:
    """How the shell that the user is in calls a program of this Python environment.

    That is its name only if the PATH leads to this very one, as in an environment that is
    activated.
    """
    folder = str(Path(sys.executable).parent)
    here, found = shutil.which(name, path=folder), shutil.which(name)
    if here is None:
        return f"{shlex.quote(sys.executable)} -m {name.replace('-', '_')}"
    if found is not None and Path(found).absolute() == Path(here).absolute():
        return name
    return shlex.quote(here)

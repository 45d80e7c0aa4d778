"""Packages that only some commands need, and the extras of this package that bring them."""

from __future__ import annotations

from importlib.util import find_spec

from stem_complete.errors import MissingPackageError

EXTRAS = {"ray": "train", "mlflow": "train", "rsciio": "microscopy", "s3fs": "s3"}
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
    return f"pip install 'stem-complete[{EXTRAS[package]}]'"

"""Runs benchmarks and prints their table, see the package's docstring."""

import argparse
import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stem_complete.console import heading

from . import BENCHMARKS, Setting
from . import __doc__ as usage
from .report import as_json, as_markdown


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=usage,
        epilog="\n".join(f"{name:12}{what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; by default all")
    parser.add_argument("--gpu", action="store_true", help="networks run on the GPU")
    parser.add_argument("--rounds", type=int, default=7, help="times that each case is measured")
    parser.add_argument("--folder", type=Path, help="where to write; nothing is left there")
    parser.add_argument("--output", type=Path, help="JSON file for all values")
    parser.add_argument("--quick", action="store_true", help="smallest inputs: shows that it works")
    given = parser.parse_args()
    if unknown := set(given.names) - BENCHMARKS.keys():
        parser.error(f"expected names of {', '.join(BENCHMARKS)}; found {', '.join(unknown)}")
    if given.gpu and not torch.cuda.is_available():
        parser.error("expected a CUDA device for --gpu, found none")
    device = torch.device("cuda" if given.gpu else "cpu")
    found = []
    for name in given.names or BENCHMARKS:
        heading(f"{name}: {BENCHMARKS[name]}")
        with TemporaryDirectory(prefix="stem-complete-", dir=given.folder) as folder:
            setting = Setting(Path(folder), device, given.rounds, given.quick)
            for row in import_module(f".{name}", __package__).run(setting):
                found.append(row._replace(what=f"{name}: {row.what}"))
                if given.output:  # an interrupted run leaves what it has
                    given.output.write_text(json.dumps(as_json(found), indent=1))
    print(as_markdown(found))


if __name__ == "__main__":
    main()

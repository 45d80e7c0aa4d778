"""Every training command that the cluster files show is one that the schema takes."""

import re
import shlex
from pathlib import Path

import pytest

from stem_complete.config import load_config

ROOT = Path(__file__).parents[3]
STARTS = r"-m stem_complete train|stem-complete train|sbatch (?:-\S+ )*cluster/slurm\w*\.sh"


def commands() -> list:
    found = []
    for file in sorted((ROOT / "cluster").rglob("*")):
        if file.suffix not in (".md", ".sh", ".yaml"):
            continue
        # A command goes on after a backslash, or as far as a folded YAML value is indented.
        text = re.sub(r" *\\\n[# ]*", " ", file.read_text())
        text = re.sub(
            r">-\n((?: {4}\S.*\n)+)", lambda value: " ".join(value[1].split()) + "\n", text
        )
        for number, match in enumerate(re.finditer(rf"(?:{STARTS}) ([^`\n]*)", text)):
            if '"$@"' not in match[1]:
                name = f"{file.relative_to(ROOT)}-{number}"
                found.append(pytest.param(shlex.split(match[1], comments=True), id=name))
    return found


def test_the_commands_are_found():
    files = {command.id.split("-")[0] for command in commands()}
    assert {"cluster/cloud.yaml", "cluster/slurm.sh", "cluster/kubernetes/rayjob.yaml"} <= files


@pytest.mark.parametrize("arguments", commands())
def test_the_schema_takes_it(arguments):
    arguments = [argument for argument in arguments if not argument.startswith("--")]
    changes = [argument for argument in arguments if "=" in argument]
    files = [argument for argument in arguments if "=" not in argument]
    config = load_config(files, changes)
    # A job runs in a copy of the folder: what it reads and writes must be seen by all nodes.
    assert config.data.store.is_absolute()
    assert config.storage.startswith(("/", "s3://"))
    # An object store holds no SQLite file.
    assert config.tracking.uri or config.storage.startswith("/")
    assert not re.search(r"[$&;|<>*?()\s]", " ".join(changes).replace(" ", "")), "a shell reads it"

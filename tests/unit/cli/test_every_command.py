"""What all commands have in common: help with examples, exit codes, errors in one line."""

from __future__ import annotations

import os
import re
import shlex

import pytest
import typer

import stem_complete
from stem_complete.cli import app
from stem_complete.errors import ConfigError, DataError, TrainingError

COMMANDS = typer.main.get_command(app).commands


def examples(name: str) -> list[str]:
    return re.findall(r"^\* `(.*)`$", COMMANDS[name].epilog or "", re.MULTILINE)


EXAMPLES = [(name, line) for name in COMMANDS for line in examples(name)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_a_command_does_with_examples(name, run):
    done = run(name, "--help")
    assert done.code == 0
    assert len(examples(name)) >= 1
    assert COMMANDS[name].help.split("\n")[0].rstrip(".")[:40] in " ".join(done.output.split())


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_every_example_of_a_help_parses(name, line, tmp_path):
    line = line.replace("/data", str(tmp_path))  # which must exist for some options
    # After `stem-complete`, or `python -m stem_complete` of torchrun or of a Ray job.
    _, arguments = re.split(r"\bstem[-_]complete ", line, maxsplit=1)
    command, *rest = shlex.split(arguments)
    assert command == name
    COMMANDS[name].make_context(name, rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_explained(name):
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_wrong_use(name, run):
    done = run(name, "--frobnicate")
    assert done.code == 2
    assert "--frobnicate" in done.error
    assert len(done.error.splitlines()) == 1


def test_an_unknown_command_is_wrong_use(run):
    done = run("frobnicate")
    assert done.code == 2
    assert done.error == "error: No such command 'frobnicate'; see --help\n"


def test_without_a_command_there_is_help(run):
    done = run()
    assert done.code == 2
    assert all(name in done.output for name in COMMANDS)


def test_threads_of_torch_rest_soon_while_they_wait_unless_the_user_says_otherwise(
    run, monkeypatch
):
    run("--version")
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")
    run("--version")
    assert os.environ["GOMP_SPINCOUNT"] == "9"


def test_a_working_directory_that_was_removed_is_told(run, tmp_path, monkeypatch):
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    done = run("--version")
    assert done.code == 2
    assert done.error == (
        "error: the working directory: expected a folder that is there, found one that was "
        "removed; cd to another\n"
    )


def test_version(run):
    assert run("--version") == (0, f"{stem_complete.__version__}\n", "")


PARTS = {"expected": "a", "found": "b\n", "where": "c", "fix": "do d"}
ENDS = {
    "wrong config": (ConfigError(**PARTS), 2, "c: expected a, found b; do d"),
    "bad data": (DataError(**PARTS), 1, "c: expected a, found b; do d"),
    "failed": (TrainingError(**PARTS), 1, "c: expected a, found b; do d"),
    "disk": (OSError(28, "No space left"), 1, "No space left; make room on that disk"),
    "file": (
        PermissionError(13, "Permission denied", "/x"),
        1,
        "/x: permission denied; let this user read and write there, or choose another place",
    ),
    "Ctrl-C": (KeyboardInterrupt(), 130, "interrupted; start it again to go on"),
    "SIGTERM": (SystemExit(143), 143, "interrupted; start it again to go on"),
}


@pytest.mark.parametrize(("error", "code", "message"), ENDS.values(), ids=ENDS)
def test_how_a_command_ends_is_its_exit_code_and_one_line(run, replaced, error, code, message):
    replaced("stem_complete.demo.run_demo", error)
    done = run("demo")
    assert done == (code, "", f"error: {message}\n")


def test_what_is_no_error_of_the_users_keeps_its_traceback(replaced):
    from stem_complete.cli import main

    replaced("stem_complete.demo.run_demo", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["demo"])

"""What is wrong with the files and changes that a command is given, in one line."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nothing.yaml"], 2, "nothing.yaml: expected a YAML file"),
        (["train", "compact", "scan.coverage=5"], 2, "did you mean 0.05?"),
        (["train", "compact", "scan.covrage=0.1"], 2, "unknown key"),
        (["ingest", "/nothing/*.tif", "--store", "x.zarr"], 1, "/nothing"),
        (["complete", "/nothing.tif", "--model", "/no", "--output", "x"], 1, "/no"),
        (["evaluate", "--data", "/nothing", "--published"], 2, "either --data or --published"),
        (["evaluate", "--protocol", "--data", "/nothing", "--output", "x"], 1, "/nothing"),
        (["evaluate", "--data", "/nothing", "--dose", "many"], 2, "--dose: expected electrons"),
        (["evaluate", "--data", "/nothing", "--geometry", "zigzag"], 2, "geometries: expected"),
        (["evaluate", "--data", "/nothing", "--dose", "9", "--noise", "none"], 2, "leave one of"),
        (["evaluate", "--published", "--geometry", "random"], 2, "--published without these"),
        (["evaluate", "--published", "--group", "(.*)"], 2, "--published without these"),
        (["evaluate", "--data", "/nothing", "--workers", "2"], 2, "add --ray"),
        (["inspect", "/nothing"], 1, "/nothing: expected a store"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_clear_line_and_writes_nothing(
    run, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == code
    *_, line = done.error.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())

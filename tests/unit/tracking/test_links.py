"""Where a run is seen in MLflow's page."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from stem_complete.credentials import hidden
from stem_complete.tracking import default_uri, places, ui_command

RUNS = "#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=stem-complete"
CURVES = "#/experiments/7/runs/abc/model-metrics?workflowType=machine_learning"


@pytest.mark.parametrize(
    "uri",
    ["http://mlflow:5000", "http://mlflow:5000/", "http://user:secret@mlflow:5000"],
)
def test_a_server_has_links_to_the_side_of_training(uri: str) -> None:
    assert places(uri, "7", "abc") == {
        "curves": f"http://mlflow:5000/{CURVES}",
        "all runs": f"http://mlflow:5000/{RUNS}",
    }


def test_links_are_shown_whole_as_no_part_of_them_is_a_password() -> None:
    links = "\n".join(places("http://mlflow:5000", "7", "abc").values())
    assert hidden(links) == links


def test_a_server_below_a_path_keeps_it() -> None:
    found = places("https://host/mlflow", "7")
    assert found == {"all runs": f"https://host/mlflow/{RUNS}"}


def test_a_database_is_served_first(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    assert places(uri, "7", "abc") == {
        "start MLflow": ui_command(uri),
        "curves": f"http://127.0.0.1:5000/{CURVES}",
        "all runs": f"http://127.0.0.1:5000/{RUNS}",
    }
    assert "--port 5000" in ui_command(uri)


def test_what_never_answered_has_a_link_to_all_experiments() -> None:
    assert places("http://mlflow:5000") == {
        "experiments": "http://mlflow:5000/#/experiments?workflowType=machine_learning"
    }


def test_another_kind_of_server_is_named_alone() -> None:
    assert places("databricks://profile", "7", "abc") == {"MLflow": "databricks://profile"}


def test_the_command_is_safe_in_a_shell(tmp_path: Path) -> None:
    command = shlex.split(ui_command(default_uri(tmp_path / "my runs; echo $HOME")))
    assert f"sqlite:///{tmp_path}/my runs; echo $HOME/mlflow.db" in command


def test_the_command_shows_no_password() -> None:
    command = ui_command("postgresql://user:secret@host/mlflow")
    assert "secret" not in command
    assert "postgresql://user:PASSWORD@host/mlflow" in command

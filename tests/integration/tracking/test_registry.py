"""Models by name, in a real MLflow database; `test_tracking.py` has them behind a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from stem_complete import load_completer
from stem_complete.cli import main
from stem_complete.config import Config
from stem_complete.errors import ArtifactError, TrackingError
from stem_complete.inference import RELEASED_MODEL, model_folder, register_model
from stem_complete.inference.card import CARD_FILE, read_card
from stem_complete.inference.sources import cache_folder
from stem_complete.tracking import open_run
from stem_complete.tracking.client import connect
from stem_complete.vocabulary import WEIGHTS_FILE


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run's folder with a model in it."""
    folder = tmp_path / "runs" / "alrc-seed3"
    shutil.copytree(RELEASED_MODEL, folder / "model")
    return folder


@pytest.fixture
def run_id(uri: str, make_config: Callable[..., Config], run_folder: Path) -> str:
    """The MLflow run of that folder."""
    tracked = open_run(make_config(run_folder.name), uri)
    assert tracked.run_id is not None
    return tracked.run_id


def retrained(run_folder: Path) -> None:
    """Another model takes the place of a run's."""
    card = run_folder / "model" / CARD_FILE
    card.write_text(card.read_text().replace('"name": "', '"name": "more-', 1))


def cached() -> list[Path]:
    return [path for path in (cache_folder() / "models").iterdir() if path.is_dir()]


def test_a_registered_run_is_loaded_by_alias_version_and_run(
    run_folder: Path, run_id: str, uri: str
) -> None:
    registered = register_model(run_folder, "gold", "production")
    assert (registered.run_id, registered.version) == (run_id, 1)
    assert registered.source == "models:/gold@production"
    assert registered.places["version"].endswith("/#/models/gold/versions/1")
    shutil.rmtree(run_folder)  # as seen from another machine
    card = read_card(RELEASED_MODEL)
    for source in ("models:/gold@production", "models:/gold/1", f"runs:/{run_id}"):
        assert load_completer(source, "cpu").card == card
    (folder,) = cached()
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]
    version = connect(uri).get_model_version("gold", "1")
    assert version.tags == {"weights_sha256": card.weights_sha256, "recipe": card.recipe}
    assert card.name in version.description


def test_an_alias_follows_the_newest_version_and_older_ones_stay(
    run_folder: Path, run_id: str
) -> None:
    register_model(run_folder, "gold", "production")
    retrained(run_folder)
    assert register_model(run_folder, "gold", "production").version == 2
    name = read_card(RELEASED_MODEL).name
    assert read_card(model_folder("models:/gold/1")).name == name
    for source in ("models:/gold@production", f"runs:/{run_id}"):
        assert read_card(model_folder(source)).name == f"more-{name}"
    assert len(cached()) == 2


def test_a_model_without_a_run_gets_one_to_hold_its_files(uri: str) -> None:
    registered = register_model("released", "gold")
    assert registered.source == "models:/gold/1"
    assert connect(uri).get_run(registered.run_id).info.status == "FINISHED"
    assert read_card(model_folder(registered.source)) == read_card(RELEASED_MODEL)
    assert register_model(f"runs:/{registered.run_id}", "again").run_id == registered.run_id


def test_a_run_that_was_never_registered_is_found_in_its_folder(
    run_folder: Path, run_id: str, uri: str, make_config: Callable[..., Config]
) -> None:
    assert model_folder(f"runs:/{run_id}") == run_folder / "model"
    later = open_run(make_config(run_folder.name), uri, resume=False).run_id
    assert model_folder(f"runs:/{later}") == run_folder / "model"
    with pytest.raises(TrackingError, match=f"found that of run {later} in its folder"):
        model_folder(f"runs:/{run_id}")


def test_versions_follow_a_database_that_is_moved(
    run_folder: Path, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model(run_folder, "gold")
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("mlflow.db", "artifacts"):
        shutil.move(tmp_path / name, there / name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there}/mlflow.db")
    assert read_card(model_folder("models:/gold/1")) == read_card(RELEASED_MODEL)


def test_what_a_disk_spoilt_is_fetched_again_and_what_the_server_spoilt_is_refused(
    run_folder: Path, run_id: str, tmp_path: Path
) -> None:
    register_model(run_folder, "gold")
    weights = model_folder("models:/gold/1") / WEIGHTS_FILE
    weights.write_bytes(b"spoilt")
    load_completer("models:/gold/1", "cpu")
    (stored,) = (tmp_path / "artifacts").rglob(WEIGHTS_FILE)
    stored.write_bytes(b"spoilt")
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"models:/gold/1: expected weights with SHA-256"):
        load_completer("models:/gold/1", "cpu")
    assert not weights.exists()
    stored.with_name(CARD_FILE).write_text("{}")
    with pytest.raises(ArtifactError, match=r"^models:/gold/1: .* found no format_version"):
        load_completer("models:/gold/1", "cpu")
    stored.with_name(CARD_FILE).unlink()
    with pytest.raises(TrackingError, match=r"expected model.json at runs:/"):
        load_completer("models:/gold/1", "cpu")


def test_what_is_not_there_is_one_line(run_folder: Path, run_id: str) -> None:
    with pytest.raises(TrackingError, match=r"'gold', found none; register it with `stem-compl"):
        load_completer("models:/gold@production")
    register_model(run_folder, "gold", "production")
    register_model(run_folder, "bird's eye")
    for source, message in {
        "models:/bird's eye/7": "a version of bird's eye '7', found 1",
        "models:/silver@production": "a registered model 'silver', found bird's eye, gold",
        "models:/gold@champion": "an alias of gold 'champion', found production",
        "models:/gold/7": "a version of gold '7', found 1",
        "runs:/0123": "a run 0123, found none with that id",
        "models:/gold": "expected models:/NAME@alias, models:/NAME/VERSION or runs:/ID",
        f"runs:/{run_id}/nothing": f"model.json at runs:/{run_id}/nothing",
    }.items():
        with pytest.raises(TrackingError, match=message) as error:
            load_completer(source)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_names_that_mlflow_does_not_take_are_one_line(run_folder: Path, run_id: str) -> None:
    for name, alias in (("a/b", None), ("gold", "v1"), ("", None)):
        with pytest.raises(TrackingError, match="a name and an alias that MLflow takes"):
            register_model(run_folder, name, alias)


def test_a_server_that_fails_halfway_is_one_line(
    run_folder: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", fail)
    with pytest.raises(TrackingError, match="that answers, found the disk is full"):
        register_model(run_folder, "gold")


def test_no_database_is_made_to_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/typo/mlflow.db")
    with pytest.raises(TrackingError, match="no such file"):
        load_completer("models:/gold@production")
    assert not (tmp_path / "typo").exists()


def test_the_command_registers_at_the_database_beside_the_run(
    run_folder: Path,
    run_id: str,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(SystemExit) as ended:
        main(["register", str(run_folder), "--name", "gold", "--alias", "best"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "models:/gold@best" in printed.out
    assert "/#/models/gold/versions/1" in printed.out
    assert printed.err == ""
    assert connect(uri).get_model_version_by_alias("gold", "best").run_id == run_id

"""From what a user calls a model to its folder."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from upath import UPath

from stem_complete import load_completer
from stem_complete.errors import ArtifactError, MissingPackageError
from stem_complete.inference import RELEASED_MODEL, model_folder, read_card
from stem_complete.inference.card import CARD_FILE
from stem_complete.inference.sources import cache_folder, described, fetched
from stem_complete.vocabulary import WEIGHTS_FILE


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Copying:
    """Brings files of a folder, and counts them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.brought: list[str] = []

    def __call__(self, file: str, into: Path) -> None:
        self.brought.append(file)
        shutil.copy(self.folder / file, into / file)


def test_the_released_model_needs_no_name_and_a_run_has_its_own(model_folder_of_run: Path) -> None:
    assert model_folder() == model_folder("released") == RELEASED_MODEL
    model = model_folder_of_run
    assert model_folder(model) == model_folder(model.parent) == model
    assert model_folder(model.as_uri()) == model


@pytest.fixture
def model_folder_of_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RELEASED_MODEL, tmp_path / "run" / "model"))


def test_weights_are_fetched_once() -> None:
    fetch = Copying(RELEASED_MODEL)
    folder = fetched(fetch, "gold")
    assert folder.parent == cache_folder() / "models"
    assert load_completer(folder, "cpu").card == read_card(RELEASED_MODEL)
    assert fetched(fetch, "gold") == folder
    assert fetch.brought == [CARD_FILE, WEIGHTS_FILE, CARD_FILE]


def test_of_several_that_want_it_at_a_time_one_fetches() -> None:
    fetch, begin = Copying(RELEASED_MODEL), Barrier(3)

    def get(_: int) -> Path:
        begin.wait()
        return fetched(fetch, "gold")

    with ThreadPoolExecutor(3) as threads:
        (folder,) = set(threads.map(get, range(3)))
    assert read_card(folder) == read_card(RELEASED_MODEL)
    assert sorted(fetch.brought) == [CARD_FILE] * 3 + [WEIGHTS_FILE]


def test_an_interrupted_fetch_leaves_no_model_and_is_done_again() -> None:
    class Interrupted(Copying):
        def __call__(self, file: str, into: Path) -> None:
            super().__call__(file, into)
            if file == WEIGHTS_FILE:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(Interrupted(RELEASED_MODEL), "gold")
    assert not list((cache_folder() / "models").iterdir())
    assert read_card(fetched(Copying(RELEASED_MODEL), "gold")) == read_card(RELEASED_MODEL)


def test_other_weights_than_were_registered_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"gold: expected weights with SHA-256 0123\.\.\."):
        fetched(Copying(RELEASED_MODEL), "gold", "0123")


def test_a_model_at_a_url_is_fetched(tmp_path: Path) -> None:
    place = UPath(f"memory://{tmp_path.name}/run/model")
    place.mkdir(parents=True)
    for name in (CARD_FILE, WEIGHTS_FILE):
        (place / name).write_bytes((RELEASED_MODEL / name).read_bytes())
    for source in (str(place), str(place.parent)):
        assert load_completer(source, "cpu").card == read_card(RELEASED_MODEL)
    assert len(list((cache_folder() / "models").iterdir())) == 1


def test_without_mlflow_a_name_of_its_registry_tells_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stem_complete.extras.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"models by name: .*stem-complete\[train\]"):
        load_completer("models:/gold@production")


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "stem-complete"


def test_a_description_tells_what_a_model_is_for() -> None:
    card = read_card(RELEASED_MODEL)
    text = described(card)
    assert "`released`" in text
    assert card.recipe in text
    assert f"1/{1 / card.coverage:.4g}" in text
    assert f"{len(card.training_data)} files" in text

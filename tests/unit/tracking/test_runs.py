from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from stem_complete.errors import ConfigError
from stem_complete.tracking import default_uri
from stem_complete.tracking.client import absolute_uri, reason, sqlite_file
from stem_complete.tracking.runs import arm_and_seed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alrc-seed0", ("alrc", 0)),
        ("alrc-huber-seed12", ("alrc-huber", 12)),
        ("paper", ("paper", None)),
        ("a-seed1-seed2", ("a-seed1", 2)),
        ("-seed", ("-seed", None)),
    ],
)
def test_arm_and_seed(name: str, expected: tuple[str, int | None]) -> None:
    assert arm_and_seed(name) == expected


@pytest.mark.parametrize("storage", ["s3://bucket/runs", "memory://runs", UPath("gs://bucket")])
def test_an_object_store_has_no_default_database(storage: str | UPath) -> None:
    with pytest.raises(ConfigError, match=r"expected tracking.uri.*add tracking.uri=http"):
        default_uri(storage)


def test_the_default_database_lies_with_the_runs(tmp_path: Path) -> None:
    for storage in (tmp_path, str(tmp_path), UPath(tmp_path)):
        assert default_uri(storage) == f"sqlite:///{tmp_path}/mlflow.db"


def test_options_of_a_database_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///a.db?timeout=5") == f"sqlite:///{tmp_path}/a.db?timeout=5"
    assert sqlite_file("sqlite:///a.db?timeout=5") == tmp_path / "a.db"
    assert absolute_uri("http://host/?a=b") == "http://host/?a=b"


def test_a_signal_is_no_reason_of_an_outage() -> None:
    outage = TimeoutError("no answer within 10 s")
    outage.__context__ = SystemExit(143)
    assert reason(outage) == "no answer within 10 s"

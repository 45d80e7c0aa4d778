"""Passwords in URLs reach who opens a connection, and nobody else."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stem_complete import credentials
from stem_complete.config import load_config
from stem_complete.credentials import Handover, hidden, put_aside, restored, storage_options
from stem_complete.errors import ConfigError, DataError
from stem_complete.storage.paths import StorageError, storage_path
from stem_complete.tracking.client import absolute_uri, reason, tracking_uri

SECRET = "hush-5up3r"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(credentials, "_kept", {})
    return


@pytest.mark.parametrize(
    ("url", "bare", "again"),
    [
        (f"http://u:{SECRET}@host:5000", "http://host:5000", None),
        (f"http://:{SECRET}@host", "http://host", None),
        (f"https://{SECRET}@host/a@b", "https://host/a@b", None),
        (f"http://u:{SECRET}@[::1]:5000/x", "http://[::1]:5000/x", None),
        (f"http://u:{SECRET}@@host", "http://host", f"http://u:{SECRET}%40@host"),
        (f"http://u:{SECRET}/x@host", "http://host", f"http://u:{SECRET}%2Fx@host"),
        (f"HTTP://u:{SECRET}%2Fx@host", "HTTP://host", None),
        (f"postgresql://u:{SECRET}@h:5432/db?sslmode=a", "postgresql://h:5432/db?sslmode=a", None),
        (f"mysql+pymysql://u@h/db?password={SECRET}", "mysql+pymysql://u@h/db", None),
        (f"s3://key:{SECRET}@bucket/runs", "s3://bucket/runs", None),
        (f"gs://bucket/runs?token={SECRET}", "gs://bucket/runs", None),
        (f"az://c/r?sv=1&sig={SECRET}&se=2", "az://c/r?sv=1&se=2", f"az://c/r?sv=1&se=2&sig={SECRET}"),
    ],
)  # fmt: skip
def test_a_url_loses_its_credentials_and_gets_them_back(
    url: str, bare: str, again: str | None
) -> None:
    assert put_aside(url) == bare
    assert put_aside(bare) == bare
    assert restored(bare) == (again or url)
    assert SECRET not in hidden(f"cannot open {url}: no answer")


@pytest.mark.parametrize(
    "url",
    [
        "http://host:5000",
        "http://host:5000/a@b",
        "s3://bucket/me@laboratory/runs",
        "s3://bucket/a:b@c",
        "abfs://container@account.dfs.core.windows.net/runs",
        "postgresql://mlflow@host/db",
        "sqlite:////a@b/mlflow.db",
        "/data/a:b@c",
        "",
    ],
)
def test_a_url_without_credentials_stays(url: str) -> None:
    assert put_aside(url) == restored(url) == hidden(url) == url
    assert storage_options(url) == {}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"s3://key:{SECRET}@bucket/runs", {"key": "key", "secret": SECRET}),
        (f"s3://key:{SECRET}/+@bucket", {"key": "key", "secret": f"{SECRET}/+"}),
        (f"sftp://u:{SECRET}%40@host/runs", {"username": "u", "password": f"{SECRET}@"}),
        (f"gs://bucket/runs?token={SECRET}", {"token": SECRET}),
        (f"https://u:{SECRET}@host/runs", {}),
    ],
)
def test_storage_gets_its_credentials_as_options(url: str, options: dict[str, str]) -> None:
    assert storage_options(put_aside(url)) == options


def test_a_config_has_no_credentials_at_any_depth() -> None:
    config = load_config(
        ["compact"],
        [
            "data.store=store.zarr",
            f"storage=memory://key:{SECRET}@bucket/runs",
            f"tracking.uri=http://u:{SECRET}@host",
            f"sweep.arms.a.tracking.uri=http://u:{SECRET}@other",
        ],
    )
    assert SECRET not in yaml.safe_dump(config.model_dump(mode="json"))
    assert SECRET not in repr(config)
    assert (config.tracking.uri, config.storage) == ("http://host", "memory://bucket/runs")
    assert str(config.run_folder).startswith("memory://bucket/runs/")
    assert config.run_folder.storage_options["password"] == SECRET
    assert restored("http://other") == f"http://u:{SECRET}@other"


def test_what_a_file_says_is_not_kept() -> None:
    put_aside(f"http://u:{SECRET}@host")
    old = {"tracking": {"uri": "http://u:0ld-password@host"}, "storage": "s3://k:0ld@bucket"}
    bare = {"tracking": {"uri": "http://host"}, "storage": "s3://bucket"}
    assert put_aside(old, keep=False) == bare
    assert restored("http://host") == f"http://u:{SECRET}@host"
    assert storage_options("s3://bucket") == {}


def test_messages_have_no_credentials() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["compact"], [f"tracking.uri=http://u:{SECRET}@host", "nonsense=1"])
    assert SECRET not in str(caught.value)
    error = DataError(
        expected="", found=f"http://u:{SECRET}@host", where=f"x://u:{SECRET}@h", fix=""
    )
    assert SECRET not in f"{error} {error.found} {error.where} {pickle.loads(pickle.dumps(error))}"
    assert SECRET not in reason(OSError(f"API request to http://u:{SECRET}@host/x failed"))
    with pytest.raises(StorageError) as unknown:
        storage_path(f"nonsense://u:{SECRET}@host/x")
    assert SECRET not in str(unknown.value)


def test_a_url_that_was_taken_for_a_path_is_hidden_too() -> None:
    assert hidden(f"no {Path(f's3://key:{SECRET}@bucket/x')}") == "no s3://***@bucket/x"
    assert hidden("no C:/folder/file, at 10:/x") == "no C:/folder/file, at 10:/x"


def test_a_password_is_hidden_outside_of_its_url_too() -> None:
    put_aside(f"http://u:{SECRET}%40@host")
    assert hidden(f"{SECRET}@ is wrong, and {SECRET}%40") == "*** is wrong, and ***"
    put_aside("http://me:me@other")
    assert hidden("some words of other length") == "some words of other length"


def test_workers_are_handed_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of the driver")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    put_aside(f"http://u:{SECRET}@host")
    handover = Handover()
    assert SECRET not in f"{handover} {handover!r}"
    sent = pickle.dumps(handover)
    credentials._kept.clear()
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    pickle.loads(sent).accept()
    assert restored("http://host") == f"http://u:{SECRET}@host"
    assert credentials.os.environ["MLFLOW_TRACKING_PASSWORD"] == "of the driver"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of the node")
    pickle.loads(sent).accept()
    assert credentials.os.environ["MLFLOW_TRACKING_PASSWORD"] == "of the node"


def test_where_a_run_is_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    def uri(*changes: str) -> str:
        return tracking_uri(load_config(["compact"], ["data.store=s.zarr", "storage=/r", *changes]))

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert uri() == "sqlite:////r/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:{SECRET}@host")
    assert uri() == "http://host"
    assert uri("storage=s3://bucket") == "http://host"
    assert uri("tracking.uri=http://other") == "http://other"
    assert absolute_uri(f"http://u:{SECRET}@third") == "http://third"

"""What a manifest says survives whatever happens while it is written."""

from __future__ import annotations

from itertools import count

import pytest
from upath import UPath

from stem_complete.storage import manifest
from stem_complete.storage.manifest import Manifest

unique = count()


@pytest.fixture(params=["disk", "object store"])
def folder(request, tmp_path):
    if request.param == "disk":
        return UPath(tmp_path / "out" / ".stem-complete")
    return UPath(f"memory://manifest-{next(unique)}/.stem-complete")


def record(unit, **more):
    return {"unit": unit, "scans": [], "files": {}, **more}


def write(folder, *records):
    lines = Manifest(folder)
    lines.read()
    with lines:
        for each in records:
            lines.add(each)


def test_the_last_record_of_a_unit_counts(folder):
    assert Manifest(folder).read() == {}
    write(folder, record("a", n=1), record("b"))
    write(folder, record("a", n=2))
    assert Manifest(folder).read() == {"a": record("a", n=2), "b": record("b")}


def test_what_was_told_is_there_when_the_driver_is_killed(folder, monkeypatch):
    monkeypatch.setattr(manifest, "UPLOAD_S", 0.0)
    killed = Manifest(folder)
    killed.add(record("a", n=1))
    killed.add(record("a", n=2))
    assert Manifest(folder).read() == {"a": record("a", n=2)}
    if killed._file is not None:
        killed._file.close()
    write(folder, record("a", n=3))
    assert Manifest(folder).read() == {"a": record("a", n=3)}


@pytest.mark.parametrize("cut", [1, 9])
def test_a_torn_line_is_dropped(folder, cut):
    write(folder, record("a"), record("b"))
    (file,) = [path for path in folder.iterdir() if path.name.endswith("manifest.jsonl")]
    file.write_bytes(file.read_bytes()[:-cut])
    kept = {"a", "b"} if cut == 1 else {"a"}
    assert set(Manifest(folder).read()) == kept
    write(folder, record("c"))
    assert set(Manifest(folder).read()) == kept | {"c"}


def test_it_can_be_forgotten(folder):
    write(folder, record("a"))
    Manifest(folder).clear()
    assert Manifest(folder).read() == {}


def test_many_uploads_become_one_file(monkeypatch):
    monkeypatch.setattr(manifest, "UPLOAD_S", 0.0)
    folder = UPath(f"memory://manifest-{next(unique)}")
    write(folder, *(record(f"u{n}", n=n) for n in range(12)))
    assert len(list(folder.iterdir())) == 12
    assert len(Manifest(folder).read()) == 12
    assert [path.name for path in folder.iterdir()] == ["manifest.jsonl"]
    write(folder, record("u0", n=99))
    assert Manifest(folder).read()["u0"]["n"] == 99

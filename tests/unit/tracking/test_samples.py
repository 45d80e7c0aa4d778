from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from stem_complete.tracking.samples import Samples


@pytest.fixture(params=["local [folder]", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    if request.param != "object store":
        yield UPath(tmp_path / request.param)
        return
    folder = UPath(f"memory://bucket{tmp_path}")
    yield folder
    if folder.exists():
        folder.rmdir(recursive=True)


def test_samples_of_all_nodes_come_oldest_first_until_removed(folder: UPath) -> None:
    reader = Samples(folder)
    assert reader.read() == {}
    for time_ms, node in ((30, "a"), (10, "b"), (20, "a"), (10, "a")):
        Samples(folder).add(node, time_ms, {"x": time_ms, node: 1.0})
    samples = reader.read()
    assert [entry["time"] for entry in samples.values()] == [10, 10, 20, 30]
    assert list(samples.values())[-1]["values"] == {"x": 30, "a": 1.0}
    assert reader.read() == samples

    first, *rest = samples
    reader.remove([first])
    assert list(reader.read()) == rest
    Samples(folder).add("c", 5, {})
    reader.remove([*rest, "not there"])
    assert [entry["time"] for entry in reader.read().values()] == [5]


def test_reads_are_bounded(folder: UPath) -> None:
    samples, times = Samples(folder), []
    for time_ms in range(1000, 1600):
        samples.add("a", time_ms, {})
    while part := samples.read():
        assert len(part) < 600
        times += [entry["time"] for entry in part.values()]
        samples.remove(part)
    assert times == list(range(1000, 1600))


def test_a_half_written_sample_is_left_until_it_is_whole(folder: UPath) -> None:
    samples = Samples(folder)
    samples.add("a", 1, {"x": 1.0})
    samples.add("a", 2, {"x": 2.0})
    (file,) = [file for file in folder.iterdir() if file.name.startswith("1-")]
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert [entry["time"] for entry in samples.read().values()] == [2]
    file.write_bytes(whole)
    assert [entry["time"] for entry in samples.read().values()] == [1, 2]


def test_a_folder_that_cannot_be_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    samples = Samples(tmp_path / "file" / "system_metrics")
    assert samples.read() == {}
    assert samples.read() == {}
    assert len(caplog.records) == 1


def test_samples_that_cannot_be_removed_come_only_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = Samples(tmp_path)
    samples.add("a", 1, {})
    (name,) = samples.read()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()  # nor can it be unlinked
    samples.remove([name])
    assert samples.read() == {}
    assert len(caplog.records) == 1

"""What a run holds, and pictures of what a store holds."""

import json
import math

import imagecodecs
import pytest
import torch

from stem_complete.data.store.layout import create_group
from stem_complete.errors import ConfigError, DataError, StoreError
from stem_complete.inspection import draw_store, inspect_path
from stem_complete.storage.paths import storage_path
from stem_complete.training import Checkpoints, StopRequest
from stem_complete.training.ending import ending_kept


@pytest.mark.parametrize("num", [1, 5, 12])
def test_a_sheet_of_crops_is_a_png(small_store, tmp_path, num):
    draw_store(small_store, tmp_path / "sheet.png", num)
    sheet = imagecodecs.png_decode((tmp_path / "sheet.png").read_bytes())
    assert min(sheet.shape[:2]) > 100
    assert sheet[..., :3].std() > 10


def test_an_empty_store_has_no_sheet(tmp_path):
    create_group(tmp_path / "s.zarr", 16, "uint16", "lz4")
    with pytest.raises(StoreError, match="crops to draw"):
        draw_store(tmp_path / "s.zarr", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: [unclosed", b"- 1\n- 2"])
def test_a_run_with_a_damaged_config_is_told_in_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{tmp_path}/config.yaml: expected "):
        inspect_path(tmp_path)


def save(checkpoints, step, score):
    metrics = {"validation/rmse": math.nan if score is None else score}
    state = {"task": {"w": torch.zeros(1000)}}
    checkpoints.save(step, state, config={"name": "x"}, metrics=metrics, score=score)
    checkpoints.wait()


def test_a_run_is_told_by_its_metadata_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step, score in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None)):
        save(checkpoints, step, score)
    for folder in checkpoints.folders():
        (folder / "task.safetensors").unlink()
    values = inspect_path(str(tmp_path))
    assert values["kind"] == "run"
    entries = values["checkpoints"]
    assert [(e["step"], e["score"], e["last"], e["best"]) for e in entries] == [
        (4, None, True, False),
        (3, 0.2, False, False),
        (2, 0.1, False, True),
        (1, 0.3, False, False),
    ]
    assert all(entry["size_bytes"] > 4000 for entry in entries)
    assert values["metrics"] == {"validation/rmse": None}
    assert values["config"] == {"name": "x"}
    assert values["state"] == "stopped"
    assert json.loads(json.dumps(values, allow_nan=False)) == values


@pytest.mark.parametrize(("cause", "state"), [("patience", "finished"), ("time", "stopped")])
def test_a_run_that_no_longer_gets_better_is_finished(tmp_path, cause, state):
    save(Checkpoints(tmp_path), 2, 0.1)
    with ending_kept(storage_path(tmp_path), StopRequest(), 0.1) as keep:
        keep(cause, "of that")
    values = inspect_path(tmp_path)
    assert values["state"] == state
    assert values["ending"]["words"] == "of that"


def test_damaged_checkpoints_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        save(checkpoints, step, 0.5)
    newest = checkpoints.folders()[0]
    (newest / "metadata.json").write_text("{")
    values = inspect_path(tmp_path)
    assert values["damaged"] == [str(newest)]
    assert [(entry["step"], entry["last"]) for entry in values["checkpoints"]] == [(1, True)]


def test_a_run_without_checkpoints_is_one_too(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert inspect_path(tmp_path)["checkpoints"] == []
    with pytest.raises(DataError, match="found nothing"):
        inspect_path("memory://nowhere/at/all")


def test_of_a_folder_of_runs_one_is_to_be_named(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(DataError, match=r"found a folder of 2 runs; name one .* such as .*/a$"):
        inspect_path(tmp_path)

"""Training of the released model: in slices, from the repository's checkpoint, back into it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stem_complete.inference import load_completer
from stem_complete.training import Checkpoints

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_released.py"
SMALL = [
    "model.preset=compact",
    "model.sizes.gates=1",
    "scan.crop_px=32",
    "training.batch_size=2",
    "training.precision=float32",
    "training.checkpoint_every_steps=1000",
    "training.log_every_steps=1",
]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a repository of its own to publish to."""
    spec = importlib.util.spec_from_file_location("train_released", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "RELEASED_MODEL", tmp_path / "released")
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train_released.py", *map(str, arguments)])
    script.main()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_slices_go_on_from_each_other(
    script: ModuleType, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--store", small_store, "--minutes", 0.03)
    run(script, monkeypatch, *common, "--output", tmp_path / "one", *SMALL)
    first = Checkpoints(tmp_path / "one" / "checkpoint").latest()
    assert first is not None
    assert first.step >= 1
    assert first.step == steps(tmp_path / "one" / "ours")[-1]
    moments = {n: v.dtype for n, v in first.state["optimizer"].items() if n.endswith("exp_avg")}
    assert set(moments.values()) == {torch.bfloat16}

    run(script, monkeypatch, "--publish", tmp_path / "one")
    load_completer(tmp_path / "released")
    # Another machine has only what was published.
    run(script, monkeypatch, *common, "--output", tmp_path / "two", *SMALL)
    assert steps(tmp_path / "two" / "ours")[0] == first.step + 1
    # The same machine goes on with the run that it has.
    done = steps(tmp_path / "two" / "ours")[-1]
    run(script, monkeypatch, *common, "--output", tmp_path / "two", *SMALL)
    assert done + 1 in steps(tmp_path / "two" / "ours")


def test_nothing_is_published_that_is_not_there(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="train first"):
        run(script, monkeypatch, "--publish", tmp_path)
    assert not (tmp_path / "released").exists()

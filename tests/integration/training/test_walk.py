"""The way of images through the packages, when a network is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import stem_complete
from stem_complete.config import Config
from stem_complete.data.loader import training_batches
from stem_complete.data.store.store import MicrographStore
from stem_complete.training import build_task

PACKAGES = ["data", "scan", "models", "losses"]


def test_images_never_come_back_to_a_package_that_they_left(
    small_config: Callable[..., Config],
) -> None:
    config = small_config("model.encoding=adaptive")
    store = MicrographStore(config.data.store)
    task = build_task(config, (64, 64))
    packages = {Path(stem_complete.__file__).parent / name for name in PACKAGES}
    walk: list[str] = []

    def enter(frame: FrameType, event: str, _: object) -> None:
        for package in packages & set(Path(frame.f_code.co_filename).parents):
            if event == "call" and walk[-1:] != [package.name]:
                walk.append(package.name)

    batches = training_batches(store, steps=range(1), seed=0, batch_size=2, micro_batch_size=2)
    sys.setprofile(enter)
    try:
        batch = next(batches)
        task(batch.examples, 0, batch.positions)
    finally:
        sys.setprofile(None)
    assert walk == PACKAGES

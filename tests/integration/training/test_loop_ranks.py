"""The training loop in several processes: the same run, however the batch is shared out."""

import json

import pytest
import torch
from training_runs import (
    ALONE,
    Tape,
    assert_close_state,
    assert_same_state,
    latest,
    task_state,
    write_config,
)

from stem_complete.training import StopRequest, train


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_gives_the_same_run(small_config, torchrun, tmp_path, world_size):
    """Frozen or not: means are each image's own, so nothing depends on how a batch is spread."""
    schedule = "optimizer.schedule={kind: cosine, low: 0.5}"
    alone = small_config(schedule, name="alone")
    train(alone, ALONE)
    workers = f"scaling.num_workers={world_size}"
    together = small_config(schedule, workers, name="together")
    file = write_config(together, tmp_path / "config.json")
    normed = [
        small_config("model.norm=batch", number, name=f"batch{name}")
        for name, number in (("-alone", "scaling.num_workers=1"), ("", workers))
    ]
    train(normed[0], ALONE)
    torchrun("training", world_size, tmp_path, write_config(normed[1], tmp_path / "b.json"), file)
    # Batch norm sees the whole batch, and so do its running statistics.
    assert_close_state(*map(task_state, normed))

    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world_size)]
    expected = latest(alone)
    assert_close_state(expected.state["task"], ranks[0]["task"])
    for rank in ranks:
        for name, value in expected.metrics.items():
            if name not in ("train/examples_per_s", "train/workers"):
                assert rank["metrics"][name] == pytest.approx(value, rel=5e-3), name
        # Bit-identical on every rank, not only close.
        thresholds = ("train/outer_threshold", "train/inner_threshold")
        assert [rank["metrics"][n] for n in thresholds] == [
            ranks[0]["metrics"][n] for n in thresholds
        ]


def test_one_workers_sigterm_stops_all_after_the_same_step(small_config, torchrun, tmp_path):
    settings = "training.steps=12", "scaling.num_workers=2", "training.checkpoint_every_steps=100"
    stopped, whole = (small_config(*settings, name=name) for name in ("stopped", "whole"))
    file = write_config(stopped, tmp_path / "config.json")
    torchrun("preempted", 2, file, tmp_path)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [worker["reason"] for worker in seen] == [None, "SIGTERM was received"]
    # It came in the third step, which carries the news.
    assert seen[0]["step"] == seen[1]["step"] == 3
    assert not any(worker["finished"] for worker in seen)
    assert latest(stopped).step == seen[0]["step"]

    torchrun("training", 2, tmp_path, file, write_config(whole, tmp_path / "whole.json"))
    assert latest(stopped).step == 12
    assert_same_state(task_state(stopped), task_state(whole))


def test_a_run_goes_on_with_another_number_of_workers(small_config, torchrun, tmp_path):
    """The sequence of examples is the same, and so are the updates, to rounding."""
    whole, resized = (small_config(name=name) for name in ("whole", "resized"))
    train(whole, ALONE)

    class StopAfterStep3(Tape):
        def scalars(self, step, values):
            if step == 3:
                stop("a test wants it")

    stop = StopRequest()
    result = train(resized, ALONE, recorder=StopAfterStep3(), stop=stop)
    assert (result.step, result.finished) == (4, False)
    two = small_config("scaling.num_workers=2", name="resized")
    torchrun("training", 2, tmp_path, write_config(two, tmp_path / "config.json"))
    assert_close_state(task_state(whole), task_state(resized))


def test_a_bit_that_differs_on_one_worker_stops_all(small_config, torchrun, tmp_path):
    config = small_config("training.steps=12", "scaling.num_workers=2")
    torchrun("diverging", 2, write_config(config, tmp_path / "config.json"), tmp_path)
    for rank in range(2):
        error = (tmp_path / f"{rank}.txt").read_text()
        assert "alrc.inner.mu2 on ranks [1]" in error
        assert "noticed after step 3" in error


def test_alrc_adds_no_collective_and_no_host_sync(small_config, torchrun, tmp_path):
    settings = (
        "training.steps=6",
        "scaling.num_workers=2",
        "training.validate_every_steps=100",
        "training.checkpoint_every_steps=100",
        "training.log_every_steps=100",
    )
    files = [
        write_config(small_config(*settings, *arm, name=name), tmp_path / f"{name}.json")
        for name, arm in (("with", ()), ("without", ("loss.alrc=null",)))
    ]
    torchrun("profiled", 2, *files, tmp_path)
    for rank in range(2):
        clipped, plain = json.loads((tmp_path / f"{rank}.json").read_text())
        collectives = {name for name in clipped if "c10d::" in name or "gloo:" in name}
        assert any("allreduce" in name for name in collectives)
        for name in collectives:
            # Before the first step workers take over what the first one has, dtype by dtype; only
            # the moments are float64.
            once = name in ("c10d::broadcast_", "gloo:broadcast")
            assert clipped[name] == plain[name] + once, name
        # `threshold` and `rest` are read once, when the run ends and logs: not in a step.
        syncs = clipped["aten::_local_scalar_dense"] - plain.get("aten::_local_scalar_dense", 0)
        assert syncs == 2, (syncs, clipped["aten::lift_fresh"] - plain["aten::lift_fresh"])
        # On a GPU a tensor of Python numbers is a wait too. ALRC's starting values are such, once.
        numbers = clipped["aten::lift_fresh"] - plain["aten::lift_fresh"]
        assert numbers == 4


def test_compressed_gradients_and_small_buckets(small_config, torchrun, tmp_path):
    """Compression rounds to 8 bits of mantissa; the size of the buckets changes nothing."""
    runs = {
        "plain": (),
        "buckets": ("scaling.bucket_mb=0.05",),
        "bf16": ("scaling.gradient_compression=bf16",),
    }
    files = [
        write_config(
            small_config("scaling.num_workers=2", *settings, name=name), tmp_path / f"{name}.json"
        )
        for name, settings in runs.items()
    ]
    torchrun("training", 2, tmp_path, *files)
    states = {name: task_state(small_config(name=name)) for name in runs}
    assert_close_state(states["plain"], states["buckets"])
    changed = 0
    for name, value in states["plain"].items():
        if name.endswith(".v"):
            changed += not torch.equal(value, states["bf16"][name])
            assert torch.allclose(value, states["bf16"][name], atol=2e-2), name
    assert changed

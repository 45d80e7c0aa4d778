"""Gradients are clipped as those of the whole batch, however it is shared out and cut up.

The last step has a spike, in an example of the first worker's, by when each way of clipping has
seen enough: 25 steps (ZClip), 64 (skipped steps), 100 (AdaGC), and 20 after a reset (SPAM).
"""

import json
from functools import partial

import pytest
import torch
import workers
from tiny_task import SPIKE_AT, build_spiky, tiny_config

from stem_complete.distributed import WorkerContext
from stem_complete.training import Checkpoints, load_checkpoint, train
from stem_complete.training.gradient_clipping import KINDS


def spam(threshold):
    options = f"{{threshold: {threshold}, reset_every_steps: 50, warmup_steps: 10}}"
    return "optimizer.name=SPAM", f"optimizer.options={options}"


def sgd(kind):
    return "optimizer.name=SGD", f"training.gradient_clipping={{kind: {kind}}}"


METHODS = {kind: sgd(kind) for kind in KINDS} | {"spam": spam(50), "spam-none": spam(10**9)}
CLIPPING = [name for name in METHODS if not name.endswith("none")]
SHARES = {
    "alone": ["scaling.num_workers=1"],
    "in-parts": ["training.micro_batch_size=1"],
    "by-two": ["scaling.num_workers=2", "training.micro_batch_size=1"],
}


def config_of(folder, method, share):
    return tiny_config(
        folder,
        *METHODS[method],
        *SHARES[share],
        f"training.steps={SPIKE_AT + 1}",
        f"training.checkpoint_every_steps={SPIKE_AT}",
        f"training.validate_every_steps={SPIKE_AT}",
        name=f"{method}-{share}",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """States before and after the spike, by method and share of the work."""
    folder = tmp_path_factory.mktemp("clipping")
    configs = {(m, s): config_of(folder, m, s) for m in METHODS for s in SHARES}
    files = []
    for (_, share), config in configs.items():
        if share == "by-two":
            files.append(folder / f"{config.name}.json")
            files[-1].write_text(json.dumps(config.model_dump(mode="json")))
        else:
            train(config, WorkerContext(), build_task=build_spiky)
    workers.run("tiny", 2, "build_spiky", 0, *files, folder=folder)
    return {key: states(config) for key, config in configs.items()}


def states(config):
    before, after = map(load_checkpoint, sorted(Checkpoints(config.run_folder).folders()))
    assert (before.step, after.step) == (SPIKE_AT, SPIKE_AT + 1)
    return before.state, after.state


@pytest.mark.parametrize("share", ["in-parts", "by-two"])
@pytest.mark.parametrize("method", METHODS)
def test_a_shared_batch_is_clipped_as_the_whole(trained, method, share):
    close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-5)
    for whole, shared in zip(trained[method, "alone"], trained[method, share], strict=True):
        assert whole.keys() == shared.keys()
        for part in whole:
            close(shared[part], whole[part])


@pytest.mark.parametrize("method", CLIPPING)
def test_the_spike_is_clipped(trained, method):
    """Without clipping it moves weights several times as far."""

    def move(method):
        before, after = (state["task"]["body.weight"] for state in trained[method, "alone"])
        return float((after - before).norm())

    assert move(method) < 0.3 * move("spam-none" if method == "spam" else "none")

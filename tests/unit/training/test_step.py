"""One optimizer step, replayed on a GPU."""

import pytest
import torch
from benchmarks.steps import problem, training_step
from training_runs import ALONE, latest

from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError
from stem_complete.training import train


def test_a_cuda_graph_needs_one_worker_with_a_gpu(small_config):
    with pytest.raises(ConfigError, match=r"found 1 worker\(s\) on cpu.*cuda_graph=false"):
        train(small_config("training.cuda_graph=true"), ALONE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_steps_are_the_same_steps(small_config):
    """Over stages, micro-batches and a checkpoint."""
    on_gpu = WorkerContext(device=torch.device("cuda"))
    states = []
    for replayed in (False, True):
        config = small_config(
            f"training.cuda_graph={replayed}",
            "training.steps=24",
            "training.micro_batch_size=2",
            "training.weight_average=0.9",
            name=f"replayed-{replayed}",
        )
        train(config, on_gpu)
        states.append(latest(config).state)
    for part in ("task", "average"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_does_not_wait_for_the_gpu():
    step = training_step(problem("training.weight_average=0.9", quick=True, device="cuda"))
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_takes_the_same_steps():
    states = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        given = problem(quick=True, device=device)
        step = training_step(given)
        for _ in range(3):
            step()
        states.append(given.task.state_dict())
    for name, value in states[0].items():
        if name.endswith((".v", ".running_mean", ".mu1", ".mu2")):
            # Its convolutions round to 10 bits (TF32), and Adam divides by small gradients.
            assert (states[1][name].cpu() - value).norm() <= 0.05 * value.norm() + 1e-3, name

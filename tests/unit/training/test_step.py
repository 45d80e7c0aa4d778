"""One optimizer step: averaged weights, and steps replayed on a GPU."""

import shutil

import pytest
import torch
from benchmarks.steps import problem, training_step

from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError
from stem_complete.inference import load_artifact
from stem_complete.inference.export import export_checkpoint
from stem_complete.models import fold_norms
from stem_complete.training import Checkpoints, build_task, train
from stem_complete.training.checkpoint_folder import load_checkpoint

ALONE = WorkerContext()


def checkpoints(config):
    return [load_checkpoint(folder) for folder in sorted(Checkpoints(config.run_folder).folders())]


@pytest.fixture
def averaged(small_config):
    config = small_config(
        "training.weight_average=0.75",
        "training.steps=4",
        "training.checkpoint_every_steps=1",
        "training.keep_checkpoints=4",
        name="averaged",
    )
    return config, train(config, ALONE)


def mean_weights(found, decay):
    """By definition: weights decay^age, normalised."""
    shares = torch.tensor([decay ** (len(found) - 1 - n) for n in range(len(found))])
    shares = shares / shares.sum()
    names = found[0].state["average"]
    states = [checkpoint.state["task"] for checkpoint in found]
    return {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in names
    }


def test_the_average_is_validated_and_exported_and_leaves_training_alone(
    averaged, small_config, tmp_path
):
    config, result = averaged
    plain = small_config("training.steps=4", name="plain")
    alone = train(plain, ALONE)
    last = checkpoints(config)[-1]
    for name, value in checkpoints(plain)[-1].state["task"].items():
        assert torch.equal(last.state["task"][name], value), name
    assert result.metrics["train/outer_loss"] == alone.metrics["train/outer_loss"]
    assert result.metrics["validation/rmse"] != alone.metrics["validation/rmse"]

    expected = mean_weights(checkpoints(config), 0.75)
    task = build_task(config, (64, 64))
    task.load_state_dict(last.state["task"] | expected)
    exported = load_artifact(
        export_checkpoint(config.run_folder, tmp_path / "model", num_calibration_scans=1)
    )
    ours = fold_norms(task.network.generator).state_dict()
    for name, value in exported.network.state_dict().items():
        torch.testing.assert_close(value, ours[name])


def test_the_average_is_the_weights_own_and_resumes(averaged):
    config, _ = averaged
    found = checkpoints(config)
    for name, value in mean_weights(found, 0.75).items():
        corrected = found[-1].state["average"][name] / (1 - 0.75**4)
        torch.testing.assert_close(corrected, value)
    for checkpoint in found[2:]:
        shutil.rmtree(checkpoint.folder)
    train(config, ALONE)
    again = checkpoints(config)[-1]
    assert again.step == 4
    for name, value in found[-1].state["average"].items():
        assert torch.equal(again.state["average"][name], value), name


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
        states.append(checkpoints(config)[-1].state)
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

"""The training step as it is, beside other ways to compute it.

Each row is a choice that was made, or offered as a setting, and what the other choice would cost.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from stem_complete.benchmarks.devices import NO_GPU, best_device, named, waited
from stem_complete.benchmarks.measure import Comparison, Effort, durations
from stem_complete.benchmarks.steps import Problem, Step, problem, training_step, unguarded_step
from stem_complete.console import waiting
from stem_complete.models import ResidualBlock, WeightNormConv2d


class Choice(NamedTuple):
    """Another way to take a step.

    Attributes:
        what: Its name in the table.
        step: Makes it; or says why there is none.
        note: Which numbers it changes, and whether it can be had.
    """

    what: str
    step: Callable[[], Step | str]
    note: str = ""


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Training steps in turn, then the memory that two of them keep for the backward pass."""
    device = best_device()

    def given(*changes: str) -> Problem:
        return problem(*changes, quick=effort.quick, device=device)

    def compiled(mode: str) -> Step | str:
        return compiled_step(given(), mode)

    choices = [
        Choice(
            "torch's default memory format, not channels last",
            lambda: training_step(_contiguous(given())),
            "differs by rounding",
        ),
        Choice(
            "weight norm as torch's parametrization calls it",
            lambda: training_step(_weight_norm_along_first(given())),
            "the same kernels; with channels last, they only fuse where the output channels are "
            "first or last in memory, which ours arranges",
        ),
        Choice(
            "weight norm from its formula",
            lambda: training_step(_weight_norm_by_formula(given())),
            "differs by rounding; over all layers at once (torch._foreach_norm) it cannot be had: "
            "that takes a norm of whole tensors, not of channels",
        ),
        Choice(
            "residual blocks recomputed in the backward pass",
            lambda: training_step(_recomputed(given())),
            "saves memory, see below; running means see each image twice, and are the same",
        ),
        Choice(
            "bf16 convolutions, float32 statistics",
            lambda: training_step(given("training.precision=bf16")),
            "training.precision=bf16; a test allows 5 % in losses",
        ),
        Choice(
            "Adam over lists of tensors, not fused",
            lambda: unguarded_step(given(), fused=False),
            "cannot skip a step without asking the device first",
        ),
        Choice(
            "a wait for the device after each step, as a guard has that asks it",
            lambda: _asking(training_step(given()), device),
            "on the CPU there is nothing to wait for",
        ),
    ]
    if device.type == "cuda":
        choices.append(
            Choice(
                "CUDA graph",
                lambda: training_step(given("training.cuda_graph=true")),
                "training.cuda_graph=true; the same numbers",
            )
        )
    # Compiling takes longer than a quick look may.
    modes = ("default", "reduce-overhead") if device.type == "cuda" else ("default",)
    choices += [
        Choice(
            f'torch.compile of the network, mode "{mode}"',
            partial(compiled, mode),
            "differs by rounding; needs a compiler",
        )
        for mode in (() if effort.quick else modes)
    ]
    ours = training_step(given())
    for choice in choices:
        yield _compared(choice, ours, device, effort)
    if device.type != "cuda":
        yield Comparison("CUDA graph", "ms", [], note=NO_GPU)
    yield _memory(given(), _recomputed(given()))


def _compared(choice: Choice, ours: Step, device: torch.device, effort: Effort) -> Comparison:
    """One choice at a time beside ours: together they would not fit into many machines' memory."""
    step = choice.step()
    if isinstance(step, str):
        return Comparison(choice.what, "ms", [], note=step)
    cases = {"other": waited(step, device), "ours": waited(ours, device)}
    seconds = durations(cases, effort.rounds)
    other, reference = ([1e3 * value for value in seconds[name]] for name in ("other", "ours"))
    against = f"as training takes it, on the {named(device)}"
    return Comparison(choice.what, "ms", other, against, reference, note=choice.note)


def _memory(plain: Problem, recomputed: Problem) -> Comparison:
    return Comparison(
        "kept for the backward pass of one example, residual blocks recomputed",
        "MiB",
        [kept_bytes(recomputed) / 2**20],
        "as training takes it",
        [kept_bytes(plain) / 2**20],
        note="weights are not counted",
    )


def compiled_step(given: Problem, mode: str) -> Step | str:
    """A step whose network is compiled; or why there is none."""
    given.task.network.compile(mode=mode)
    step = training_step(given)
    try:
        with waiting("compiling the network"):
            step()
    except RuntimeError as error:
        return f"torch.compile does not work here: {str(error).splitlines()[0]}"
    return step


def kept_bytes(given: Problem) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in given.task.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        positions = torch.arange(len(given.batch), device=given.batch.device)
        output = given.task(given.batch, 0, positions)
    del output
    return sum(kept.values())


def _contiguous(given: Problem) -> Problem:
    given.task.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def in_default_format(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.contiguous() for x in inputs)

    given.task.network.register_forward_pre_hook(in_default_format)
    return given


def _weight_norm_along_first(given: Problem) -> Problem:
    def kernel(layer: WeightNormConv2d) -> Tensor:
        assert layer.g is not None
        g = layer.per_output_channel(layer.g)
        return torch._weight_norm(layer.v, g, layer.out_dim)  # noqa: SLF001

    return _with_kernels(given, kernel)


def _weight_norm_by_formula(given: Problem) -> Problem:
    def kernel(layer: WeightNormConv2d) -> Tensor:
        assert layer.g is not None
        norm: Tensor = torch.linalg.vector_norm(layer.v, dim=layer.norm_dims, keepdim=True)
        return layer.v * (layer.per_output_channel(layer.g) / norm)

    return _with_kernels(given, kernel)


def _with_kernels(given: Problem, kernel: Callable[[WeightNormConv2d], Tensor]) -> Problem:
    for layer in given.task.modules():
        if isinstance(layer, WeightNormConv2d) and layer.g is not None:
            layer.kernel = types.MethodType(kernel, layer)  # type: ignore[method-assign]
    return given


def _recomputed(given: Problem) -> Problem:
    for block in given.task.modules():
        if isinstance(block, ResidualBlock):
            block.forward = _checkpointed(block.forward)  # type: ignore[method-assign, assignment]
    return given


def _checkpointed(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def recomputed(x: Tensor) -> Tensor:
        output: Tensor = checkpoint(forward, x, use_reentrant=False)
        return output

    return recomputed


def _asking(step: Step, device: torch.device) -> Step:
    flag = torch.ones((), device=device)

    def asked() -> None:
        step()
        bool(flag.isfinite())

    return asked

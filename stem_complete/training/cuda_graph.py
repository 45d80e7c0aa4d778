"""A function of tensors on a GPU, recorded once and then replayed: one launch instead of thousands.

At a batch of one, a step's kernels are shorter than the time that the host takes to launch them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NUM_EAGER_CALLS = 3
"""The first calls cannot be recorded: libraries choose algorithms and allocate workspaces."""

Outputs = tuple[Tensor, ...]


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Outputs


class CudaGraph:
    """Calls `function`, at first as it is, then by replaying a recording of it.

    Each call has the function's whole effect exactly once: recording executes nothing.

    Args:
        function: Takes and returns tensors on the current GPU, of the same shapes each time. It
            must not wait for the device; what it changes, it changes in place. Python numbers that
            it uses become part of the recording: call `forget` when they change.
    """

    def __init__(self, function: Callable[..., Outputs]) -> None:
        self.function = function
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._recording: _Recording | None = None
        self._num_eager_calls = 0

    def __call__(self, *inputs: Tensor) -> Outputs:
        """What the function returns; valid until the next call."""
        if self._num_eager_calls < NUM_EAGER_CALLS:
            self._num_eager_calls += 1
            return self._eagerly(inputs)
        if self._recording is None:
            self._recording = self._record(inputs)
        for own, given in zip(self._recording.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._recording.graph.replay()
        return self._recording.outputs

    def forget(self) -> None:
        """Drops the recording; the next calls make another."""
        self._recording = None
        self._num_eager_calls = 0

    def _eagerly(self, inputs: tuple[Tensor, ...]) -> Outputs:
        # On another stream than the default one, as it will be recorded.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        for tensor in (*inputs, *outputs):
            tensor.record_stream(torch.cuda.current_stream())
            tensor.record_stream(self._stream)
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        own = tuple(tensor.clone() for tensor in inputs)
        with torch.cuda.graph(graph):
            outputs = self.function(*own)
        return _Recording(graph, own, outputs)

"""One optimizer step on a worker's share of the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from stem_complete.config import Config
from stem_complete.data.loader import Batch
from stem_complete.distributed import (
    DelayedFlags,
    StatisticsExchange,
    WorkerContext,
    bf16_gradients,
)
from stem_complete.errors import ConfigError
from stem_complete.training.cuda_graph import CudaGraph
from stem_complete.training.gradient_clipping import Gradients
from stem_complete.training.log_window import (
    NONFINITE,
    LogWindow,
    loss_statistics,
    losses_of,
    mean_loss,
)
from stem_complete.training.state import TrainingState
from stem_complete.training.task import TaskOutput


class TrainingStep:
    """Losses, gradients, guard, optimizer and statistics; every worker ends with the same state.

    Nothing here waits for the device: what the host must know comes late, in `flags`, or when the
    `window` is read.

    Args:
        state: What is trained; its step is counted here.
        model: The task, or what distributes it over workers.
        context: This worker.
        batch_size: Examples a step, over all workers.
        cuda_graph: Whether steps are recorded and replayed.
        tells_losses: Whether flags go on with the first loss of each example of the global batch.

    Attributes:
        window: What happened since it was last restarted.
        flags: Of each step (workers that asked to stop, workers out of time, steps skipped in a row
            up to it), one step late.
    """

    def __init__(
        self,
        state: TrainingState,
        model: nn.Module,
        context: WorkerContext,
        *,
        batch_size: int,
        cuda_graph: bool = False,
        tells_losses: bool = False,
    ) -> None:
        self.state, self.context = state, context
        self.batch_size = batch_size
        self.tells_losses = tells_losses
        self.model = model.train()
        self.exchange = StatisticsExchange()
        self.window = LogWindow(state.task.loss_names, context.device)
        self.flags = DelayedFlags(delay=1)
        self.wishes = torch.zeros(2, device=context.device)
        self._graph = CudaGraph(self._replayable) if cuda_graph else None
        self._recorded_stage = state.stage

    def __call__(
        self, batches: Sequence[Batch], *, stop: bool = False, out_of_time: bool = False
    ) -> None:
        """Takes a step.

        Args:
            batches: This worker's micro-batches, of the same shape each.
            stop: Whether this worker asks all to stop.
            out_of_time: Whether this worker's time is over, which stops all, too.
        """
        step = self.state.step
        if stop:
            self.wishes[0] = 1
        if out_of_time:
            self.wishes[1] = 1
        device = self.context.device
        examples = [batch.examples.to(device, non_blocking=True) for batch in batches]
        positions = [batch.positions.to(device, non_blocking=True) for batch in batches]
        if self._graph is None:
            steps = [step if b.steps is None else b.steps.to(device) for b in batches]
            flags, losses = self._compute(examples, steps, positions)
        else:
            flags, losses = self._replay(examples, step, positions)
        self.window.add(step, batches, losses)
        self.flags.push(step, flags)
        self.state.step += 1

    def _compute(
        self, examples: Sequence[Tensor], steps: Sequence[int | Tensor], positions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The step's flags and `losses_of` this worker's micro-batches, stacked."""
        state, optimizer = self.state, self.state.optimizer
        optimizer.torch.zero_grad(set_to_none=True)
        outputs = self._backward(examples, steps, positions)
        state.drop_frozen_gradients()

        # Gradients are already the same on every worker, and the flag on losses is summed over all.
        sums = self.exchange.finish()
        parameters = optimizer.parameters_with_gradient()
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        usable = norm.isfinite() & (sums["losses"][NONFINITE] == 0)
        taken = state.clipping(Gradients(parameters, norm, mean_loss(sums["losses"]), usable))
        optimizer.step(taken)
        state.task.commit(sums, usable)
        state.update_average()
        self.window.count(sums["losses"], usable, taken)
        flags = torch.stack((*sums["wishes"], self.window.skipped_in_a_row.float()))
        if self.tells_losses:
            flags = torch.cat((flags, sums["of_examples"]))
        return flags, torch.stack([losses_of(output) for output in outputs])

    def _backward(
        self, examples: Sequence[Tensor], steps: Sequence[int | Tensor], positions: Sequence[Tensor]
    ) -> list[TaskOutput]:
        """Adds up gradients of all micro-batches, and starts the exchange of statistics."""
        # DDP averages gradients over workers; the loss is the mean over the global batch.
        scale = self.context.world_size / self.batch_size
        outputs: list[TaskOutput] = []
        micro_batches = zip(examples, steps, positions, strict=True)
        for number, micro_batch in enumerate(micro_batches, 1):
            last = number == len(examples)
            with self._gradient_sync(last):
                output: TaskOutput = self.model(*micro_batch)
                outputs.append(output)
                if last:
                    self.exchange.start(self._statistics(outputs))
                (output.loss.sum() * scale).backward()  # type: ignore[no-untyped-call]
        return outputs

    def _statistics(self, outputs: Sequence[TaskOutput]) -> dict[str, Tensor]:
        """All that this worker adds to the one exchange of a step."""
        own = {"losses": loss_statistics(outputs), "wishes": self.wishes}
        if self.tells_losses:
            (first, *_) = self.state.task.loss_names
            mine = torch.cat([output.losses[first].detach().float() for output in outputs])
            start = self.context.rank * len(mine)
            own["of_examples"] = mine.new_zeros(self.batch_size)
            own["of_examples"][start : start + len(mine)] = mine
        return self.state.task.statistics() | own

    def _replay(
        self, examples: Sequence[Tensor], step: int, positions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert self._graph is not None
        if self.state.stage != self._recorded_stage:
            self._graph.forget()  # learning rates and betas are part of the recording
            self._recorded_stage = self.state.stage
        number = torch.full((), step, dtype=torch.int64, device=self.context.device)
        stacked, places = torch.stack(list(examples)), torch.stack(list(positions))
        flags, losses = self._graph(stacked, number, places)
        return flags, losses.clone()  # which the next replay would overwrite

    def _replayable(
        self, examples: Tensor, step: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._compute(list(examples), [step] * len(examples), list(positions))

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Lets only the last micro-batch of a step exchange gradients."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return cast("AbstractContextManager[None]", self.model.no_sync())
        return nullcontext()


def build_step(config: Config, state: TrainingState, context: WorkerContext) -> TrainingStep:
    """The step of a run that a config describes.

    Raises:
        ConfigError: The config asks for a CUDA graph, which this worker cannot have.
    """
    cuda_graph, scaling = config.training.cuda_graph, config.scaling
    if cuda_graph and not (context.device.type == "cuda" and context.world_size == 1):
        raise ConfigError(
            expected="one worker with a GPU, as training.cuda_graph is set",
            found=f"{context.world_size} worker(s) on {context.device.type}",
            where=config.name,
            fix="add training.cuda_graph=false",
        )
    model: nn.Module = state.task
    if context.world_size > 1:
        model = DistributedDataParallel(
            state.task,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            bucket_cap_mb=scaling.bucket_mb,
        )
        if scaling.gradient_compression == "bf16":
            model.register_comm_hook(None, bf16_gradients)
    return TrainingStep(
        state,
        model,
        context,
        batch_size=config.batch_size,
        cuda_graph=cuda_graph,
        tells_losses=config.training.hard_examples is not None,
    )

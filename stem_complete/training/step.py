"""One optimizer step on a worker's share of the global batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stem_complete.config import Config
from stem_complete.data.loader import Batch
from stem_complete.distributed import (
    DelayedFlags,
    StatisticsExchange,
    WorkerContext,
    bf16_gradients,
    bit_digest,
    ranks_differ,
)
from stem_complete.errors import ConfigError
from stem_complete.training.completion import CompletionTask, TaskOutput
from stem_complete.training.cuda_graph import CudaGraph
from stem_complete.training.log_window import NONFINITE, Window, loss_statistics
from stem_complete.training.state import TrainingState, optimizer_step


class TrainingStep:
    """Losses, gradients, guard, Adam and moments; every worker has the same state after it.

    Nothing here waits for the device: what the host must know comes late, in `flags`, or when the
    `window` is read.

    Args:
        config: The run.
        state: What is trained; its step is counted here.
        context: This worker.

    Raises:
        ConfigError: The config asks for a CUDA graph, which this worker cannot have.

    Attributes:
        window: What happened since it was last restarted.
        flags: Of each step (workers that asked to stop, workers out of time, whether replicas
            differ, steps skipped in a row up to it), one step late.
    """

    def __init__(self, config: Config, state: TrainingState, context: WorkerContext) -> None:
        on_one_gpu = context.device.type == "cuda" and context.world_size == 1
        if config.training.cuda_graph and not on_one_gpu:
            raise ConfigError(
                expected="one worker with a GPU, as training.cuda_graph is set",
                found=f"{context.world_size} worker(s) on {context.device.type}",
                where=config.name,
                fix="add training.cuda_graph=false",
            )
        self.state, self.context = state, context
        self.batch_size = config.batch_size
        self.model = _distributed(state.task, config, context).train()
        self.exchange = StatisticsExchange()
        self.window = Window(context.device)
        self.flags = DelayedFlags(delay=1)
        self.wishes = torch.zeros(2, device=context.device)
        self._graph = CudaGraph(self._replayable) if config.training.cuda_graph else None
        self._recorded_stage = state.stage

    def __call__(
        self, batches: list[Batch], *, stop: bool = False, out_of_time: bool = False
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
        moved = [batch.to(self.context.device) for batch in batches]
        images, positions = [b.examples for b in moved], [b.positions for b in moved]
        if self._graph is None:
            flags, losses = self._compute(images, step, positions)
        else:
            flags, losses = self._replay(images, step, positions)
        self.window.add(batches, losses)
        self.flags.push(step, flags)
        self.state.step += 1

    def _compute(
        self, images: list[Tensor], step: int | Tensor, positions: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The step's flags [4] and this worker's losses [number of micro-batches, b]."""
        optimizer, task = self.state.optimizer, self.state.task
        optimizer.zero_grad(set_to_none=True)
        # DDP averages gradients over workers; the loss is the mean over the global batch.
        scale = self.context.world_size / self.batch_size
        outputs: list[TaskOutput] = []
        for number, (micro_batch, places) in enumerate(zip(images, positions, strict=True), 1):
            last = number == len(images)
            with self._gradient_sync(last):
                output = cast("TaskOutput", self.model(micro_batch, step, places))
                outputs.append(output)
                if last:
                    self.exchange.start(self._statistics(outputs))
                (output.loss.sum() * scale).backward()  # type: ignore[no-untyped-call]

        # Gradients are already the same on every worker, and the flag on losses is summed over all.
        sums = self.exchange.finish()
        norm = nn.utils.get_total_norm(
            [p.grad for group in optimizer.param_groups for p in group["params"]]
        )
        usable = norm.isfinite() & (sums["losses"][NONFINITE] == 0)
        optimizer_step(optimizer, usable)
        task.commit(sums, usable)
        self.state.update_average()
        self.window.count(sums["losses"], usable)
        differ = ranks_differ(sums["digest"], self.context.world_size)
        in_a_row = self.window.skipped_in_a_row
        flags = torch.stack((*sums["wishes"], differ.float(), in_a_row.float()))
        return flags, torch.stack([(output.outer + output.inner).detach() for output in outputs])

    def _statistics(self, outputs: list[TaskOutput]) -> dict[str, Tensor]:
        """All that this worker adds to the one exchange of a step."""
        return self.state.task.statistics() | {
            "losses": loss_statistics(outputs),
            "digest": bit_digest(self.state.task.replicas(), self.context.device),
            "wishes": self.wishes,
        }

    def _replay(
        self, images: list[Tensor], step: int, positions: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert self._graph is not None
        if self.state.stage != self._recorded_stage:
            self._graph.forget()  # learning rates and beta1 are part of the recording
            self._recorded_stage = self.state.stage
        number = torch.full((), step, dtype=torch.int64, device=self.context.device)
        flags, losses = self._graph(torch.stack(images), number, torch.stack(positions))
        return flags, losses.clone()  # which the next replay would overwrite

    def _replayable(self, images: Tensor, step: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self._compute(list(images), step, list(positions))

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Lets only the last micro-batch of a step exchange gradients."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return cast("AbstractContextManager[None]", self.model.no_sync())
        return nullcontext()


def _distributed(task: CompletionTask, config: Config, context: WorkerContext) -> nn.Module:
    if context.world_size == 1:
        return task
    scaling = config.scaling
    model = DistributedDataParallel(
        task,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=scaling.bucket_mb,
    )
    if scaling.gradient_compression == "bf16":
        model.register_comm_hook(None, bf16_gradients)
    return model

"""Training: task, schedule, state, loop, checkpoints, validation."""

from stem_complete.training.checkpoint import Checkpoints
from stem_complete.training.checkpoint_folder import Checkpoint, load_checkpoint
from stem_complete.training.completion import CompletionTask, build_completion, build_task
from stem_complete.training.loop import TrainingResult, train
from stem_complete.training.recorder import Recorder, Recorders
from stem_complete.training.stopping import StopRequest, exit_on_sigterm, stop_on_signals
from stem_complete.training.task import Task, TaskBuilder, TaskOutput, Validated
from stem_complete.training.tasks import TASKS, build_named, check_used, open_examples

__all__ = [
    "TASKS",
    "Checkpoint",
    "Checkpoints",
    "CompletionTask",
    "Recorder",
    "Recorders",
    "StopRequest",
    "Task",
    "TaskBuilder",
    "TaskOutput",
    "TrainingResult",
    "Validated",
    "build_completion",
    "build_named",
    "build_task",
    "check_used",
    "exit_on_sigterm",
    "load_checkpoint",
    "open_examples",
    "stop_on_signals",
    "train",
]

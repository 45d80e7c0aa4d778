"""Training: task, schedule, state, loop, checkpoints, validation."""

from stem_complete.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from stem_complete.training.loop import TrainingResult, train
from stem_complete.training.recording import Recorder, Recorders
from stem_complete.training.task import CompletionTask, build_task

__all__ = [
    "Checkpoint",
    "CompletionTask",
    "Recorder",
    "Recorders",
    "TrainingResult",
    "build_task",
    "latest_checkpoint",
    "load_checkpoint",
    "train",
]

"""Trained networks at work: models on disk, completion of arrays and files, evaluation."""

from stem_complete.inference.artifact import (
    Artifact,
    build_artifact,
    load_artifact,
    save_artifact,
)
from stem_complete.inference.card import ModelCard, TrainingSource, read_card
from stem_complete.inference.complete import CompleteReport, complete_files
from stem_complete.inference.completer import (
    MODEL_FOLDER,
    RELEASED_MODEL,
    Completer,
    Completion,
    load_completer,
)
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.inference.evaluate import evaluate, evaluate_published
from stem_complete.inference.export import export_checkpoint
from stem_complete.inference.protocol import run_protocol
from stem_complete.inference.protocol_report import ProtocolReport
from stem_complete.inference.scorecard import EvaluationReport, EvaluationRow, Summary

__all__ = [
    "MODEL_FOLDER",
    "RELEASED_MODEL",
    "Artifact",
    "CompleteReport",
    "Completer",
    "Completion",
    "ErrorCalibration",
    "EvaluationReport",
    "EvaluationRow",
    "ModelCard",
    "ProtocolReport",
    "Summary",
    "TrainingSource",
    "build_artifact",
    "complete_files",
    "evaluate",
    "evaluate_published",
    "export_checkpoint",
    "load_artifact",
    "load_completer",
    "read_card",
    "run_protocol",
    "save_artifact",
]

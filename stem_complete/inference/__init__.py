"""Trained networks at work: models on disk, scans in, completed images out.

Imports no file format and no scipy, so that `load_completer` is quick; `export` makes models.
"""

from stem_complete.data.formats.scans import read_scan, read_scans
from stem_complete.data.scan_options import ScanOptions
from stem_complete.inference.artifact import (
    Artifact,
    build_artifact,
    load_artifact,
    save_artifact,
)
from stem_complete.inference.card import ModelCard, TrainingSource, read_card
from stem_complete.inference.complete import Progress, complete_scans
from stem_complete.inference.completer import (
    CompletedScan,
    Completer,
    Completion,
    load_completer,
)
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.inference.image_files import Outputs, write_completion
from stem_complete.inference.remote import RemoteCompleter
from stem_complete.inference.self_check import SelfCheck
from stem_complete.inference.sources import (
    MODEL_FOLDER,
    RELEASED_MODEL,
    model_folder,
    register_model,
)

__all__ = [
    "MODEL_FOLDER",
    "RELEASED_MODEL",
    "Artifact",
    "CompletedScan",
    "Completer",
    "Completion",
    "ErrorCalibration",
    "ModelCard",
    "Outputs",
    "Progress",
    "RemoteCompleter",
    "ScanOptions",
    "SelfCheck",
    "TrainingSource",
    "build_artifact",
    "complete_scans",
    "load_artifact",
    "load_completer",
    "model_folder",
    "read_card",
    "read_scan",
    "read_scans",
    "register_model",
    "save_artifact",
    "write_completion",
]

"""Completions judged: methods on scans of known micrographs, metrics, reports, figures.

images = load_micrographs("images/", max_per_field=4)
report = evaluate(images, baseline_methods() | model_methods(load_completer()), PROTOCOL)
print(by_condition(report))
"""

from stem_complete.evaluation.baselines import BASELINES, NOISY, linear
from stem_complete.evaluation.bootstrap import ratio_interval
from stem_complete.evaluation.conditions import Condition, conditions_of
from stem_complete.evaluation.curves import LearningCurve, boxcar_mean, learning_curves_figure
from stem_complete.evaluation.figures import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.ground_truth import (
    KnownScan,
    Micrographs,
    load_micrographs,
    published_scans,
    simulate,
)
from stem_complete.evaluation.methods import (
    DEFAULT_BASELINES,
    PROTOCOL_BASELINES,
    Baseline,
    Method,
    Model,
    baseline_methods,
    model_methods,
)
from stem_complete.evaluation.metrics import all_metrics, rmse
from stem_complete.evaluation.page import save_png
from stem_complete.evaluation.protocol import MAX_PER_FIELD, PROTOCOL, evaluate_protocol
from stem_complete.evaluation.report import MODEL, Report, Row, grouped
from stem_complete.evaluation.scoring import evaluate, evaluate_published
from stem_complete.evaluation.tables import by_condition, by_method, markdown_table

__all__ = [
    "BASELINES",
    "DEFAULT_BASELINES",
    "MAX_PER_FIELD",
    "MODEL",
    "NOISY",
    "PROTOCOL",
    "PROTOCOL_BASELINES",
    "Baseline",
    "CompletionExample",
    "Condition",
    "KnownScan",
    "LearningCurve",
    "Method",
    "Micrographs",
    "Model",
    "Report",
    "Row",
    "all_metrics",
    "baseline_methods",
    "boxcar_mean",
    "by_condition",
    "by_method",
    "completion_figure",
    "conditions_of",
    "contact_sheet",
    "evaluate",
    "evaluate_protocol",
    "evaluate_published",
    "grouped",
    "learning_curves_figure",
    "linear",
    "load_micrographs",
    "markdown_table",
    "model_methods",
    "published_scans",
    "ratio_interval",
    "rmse",
    "save_png",
    "simulate",
]

"""Completions judged: methods on scans of known micrographs, metrics, reports, figures.

images = load_micrographs("images/", max_per_field=4)
report = evaluate(images, baseline_methods() | model_methods(load_completer()), PROTOCOL)
print(by_condition(report))
"""

from stem_complete.evaluation.baselines import (
    BASELINES,
    NOISY,
    biharmonic,
    harmonic,
    linear,
    nearest,
    normalised_convolution,
    spline,
    total_variation,
)
from stem_complete.evaluation.bootstrap import Interval, ratio_interval
from stem_complete.evaluation.conditions import Condition, conditions_of
from stem_complete.evaluation.curves import (
    LearningCurve,
    boxcar_mean,
    learning_curves_figure,
    mean_curve,
)
from stem_complete.evaluation.figures import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.ground_truth import (
    KnownMicrograph,
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
    FirstCompletion,
    Method,
    Model,
    baseline_methods,
    model_methods,
)
from stem_complete.evaluation.metrics import Scores, all_metrics, psnr, rmse, ssim
from stem_complete.evaluation.protocol import (
    MAX_PER_FIELD,
    PROTOCOL,
    draw_worst,
    evaluate_protocol,
)
from stem_complete.evaluation.report import FIRST, MODEL, Cell, Report, Row, Statistic, Summary
from stem_complete.evaluation.scoring import evaluate, evaluate_published, score
from stem_complete.evaluation.table import markdown_table
from stem_complete.evaluation.tables import by_condition, by_method

__all__ = [
    "BASELINES",
    "DEFAULT_BASELINES",
    "FIRST",
    "MAX_PER_FIELD",
    "MODEL",
    "NOISY",
    "PROTOCOL",
    "PROTOCOL_BASELINES",
    "Baseline",
    "Cell",
    "CompletionExample",
    "Condition",
    "FirstCompletion",
    "Interval",
    "KnownMicrograph",
    "KnownScan",
    "LearningCurve",
    "Method",
    "Micrographs",
    "Model",
    "Report",
    "Row",
    "Scores",
    "Statistic",
    "Summary",
    "all_metrics",
    "baseline_methods",
    "biharmonic",
    "boxcar_mean",
    "by_condition",
    "by_method",
    "completion_figure",
    "conditions_of",
    "contact_sheet",
    "draw_worst",
    "evaluate",
    "evaluate_protocol",
    "evaluate_published",
    "harmonic",
    "learning_curves_figure",
    "linear",
    "load_micrographs",
    "markdown_table",
    "mean_curve",
    "model_methods",
    "nearest",
    "normalised_convolution",
    "psnr",
    "published_scans",
    "ratio_interval",
    "rmse",
    "score",
    "simulate",
    "spline",
    "ssim",
    "total_variation",
]

"""Metrics, classical baselines, figures and tables."""

from stem_complete.evaluation.baselines import (
    BASELINES,
    NOISY,
    BaselineResult,
    biharmonic,
    harmonic,
    linear,
    nearest,
    normalised_convolution,
    run_baselines,
    spline,
    total_variation,
)
from stem_complete.evaluation.bootstrap import Interval, ratio_interval
from stem_complete.evaluation.curves import (
    LearningCurve,
    boxcar_mean,
    learning_curves_figure,
    mean_curve,
)
from stem_complete.evaluation.figures import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.metrics import Scores, all_metrics, psnr, rmse, ssim
from stem_complete.evaluation.table import markdown_table

__all__ = [
    "BASELINES",
    "NOISY",
    "BaselineResult",
    "CompletionExample",
    "Interval",
    "LearningCurve",
    "Scores",
    "all_metrics",
    "biharmonic",
    "boxcar_mean",
    "completion_figure",
    "contact_sheet",
    "harmonic",
    "learning_curves_figure",
    "linear",
    "markdown_table",
    "mean_curve",
    "nearest",
    "normalised_convolution",
    "psnr",
    "ratio_interval",
    "rmse",
    "run_baselines",
    "spline",
    "ssim",
    "total_variation",
]

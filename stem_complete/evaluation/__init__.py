"""Metrics, classical baselines, figures and tables."""

from stem_complete.evaluation.baselines import (
    BASELINES,
    BaselineResult,
    biharmonic,
    harmonic,
    linear,
    nearest,
    normalised_convolution,
    run_baselines,
)
from stem_complete.evaluation.curves import (
    LearningCurve,
    boxcar_mean,
    learning_curves_figure,
    mean_curve,
)
from stem_complete.evaluation.figures import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.metrics import Scores, all_metrics, psnr, rmse, ssim
from stem_complete.evaluation.report import ScoreRow, ScoresTable, scores_table

__all__ = [
    "BASELINES",
    "BaselineResult",
    "CompletionExample",
    "LearningCurve",
    "ScoreRow",
    "Scores",
    "ScoresTable",
    "all_metrics",
    "biharmonic",
    "boxcar_mean",
    "completion_figure",
    "contact_sheet",
    "harmonic",
    "learning_curves_figure",
    "linear",
    "mean_curve",
    "nearest",
    "normalised_convolution",
    "psnr",
    "rmse",
    "run_baselines",
    "scores_table",
    "ssim",
]

"""Completions judged: methods on scans of known micrographs, metrics, reports, figures.

images = load_micrographs("images/", max_per_field=4)
report = evaluate(images, baseline_methods() | model_methods(load_completer()), PROTOCOL)
print(by_condition(report))
"""

from stem_complete.evaluation.baselines import BASELINES, linear
from stem_complete.evaluation.bootstrap import ratio_interval
from stem_complete.evaluation.conditions import Condition, conditions_of
from stem_complete.evaluation.curves import (
    LearningCurve,
    Panel,
    boxcar_mean,
    curves_figure,
    learning_curves_figure,
)
from stem_complete.evaluation.details_figure import details_figure
from stem_complete.evaluation.details_tables import (
    RowsFormat,
    all_tables,
    evaluation_page,
    write_rows,
)
from stem_complete.evaluation.equal_dose import compare_at_equal_dose
from stem_complete.evaluation.equal_dose_tables import equal_dose_figure, equal_dose_tables
from stem_complete.evaluation.figures import CompletionExample, completion_figure, contact_sheet
from stem_complete.evaluation.heat_map import ratios_figure
from stem_complete.evaluation.known_scans import KnownScan, published_scans, simulate
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
from stem_complete.evaluation.micrographs import (
    KnownMicrograph,
    Micrographs,
    load_micrographs,
    published_micrographs,
)
from stem_complete.evaluation.page import save_png
from stem_complete.evaluation.protocol import (
    COVERAGES,
    DOSES,
    MAX_PER_FIELD,
    NOISES,
    PROTOCOL,
    chosen,
    evaluate_protocol,
)
from stem_complete.evaluation.report import MODEL, Cell, Report, Row, grouped
from stem_complete.evaluation.scoring import Measures, evaluate_published
from stem_complete.evaluation.side_by_side import side_by_side_figure
from stem_complete.evaluation.tables import (
    as_csv,
    by_condition,
    by_method,
    markdown_table,
    ratios_table,
)
from stem_complete.evaluation.tuned import parameters
from stem_complete.evaluation.work import evaluate

__all__ = [
    "BASELINES",
    "COVERAGES",
    "DEFAULT_BASELINES",
    "DOSES",
    "MAX_PER_FIELD",
    "MODEL",
    "NOISES",
    "PROTOCOL",
    "PROTOCOL_BASELINES",
    "Baseline",
    "Cell",
    "CompletionExample",
    "Condition",
    "KnownMicrograph",
    "KnownScan",
    "LearningCurve",
    "Measures",
    "Method",
    "Micrographs",
    "Model",
    "Panel",
    "Report",
    "Row",
    "RowsFormat",
    "all_metrics",
    "all_tables",
    "as_csv",
    "baseline_methods",
    "boxcar_mean",
    "by_condition",
    "by_method",
    "chosen",
    "compare_at_equal_dose",
    "completion_figure",
    "conditions_of",
    "contact_sheet",
    "curves_figure",
    "details_figure",
    "equal_dose_figure",
    "equal_dose_tables",
    "evaluate",
    "evaluate_protocol",
    "evaluate_published",
    "evaluation_page",
    "grouped",
    "learning_curves_figure",
    "linear",
    "load_micrographs",
    "markdown_table",
    "model_methods",
    "parameters",
    "published_micrographs",
    "published_scans",
    "ratio_interval",
    "ratios_figure",
    "ratios_table",
    "rmse",
    "save_png",
    "side_by_side_figure",
    "simulate",
    "write_rows",
]

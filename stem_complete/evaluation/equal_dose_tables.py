"""Tables and a picture of full rasters beside sparse scans of as many electrons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any, Literal, NamedTuple

from stem_complete.console import counted, format_digits
from stem_complete.evaluation.bootstrap import ratio_interval
from stem_complete.evaluation.curves import ARM_COLOURS
from stem_complete.evaluation.page import styled
from stem_complete.evaluation.report import MODEL, Report, Row, grouped
from stem_complete.evaluation.tables import markdown_table
from stem_complete.evaluation.tuned import dose_of
from stem_complete.vocabulary import parse_coverage

Score = Literal["rmse", "unblurred_rmse"]
_TRUTHS: dict[Score, str] = {"rmse": "blurred truth", "unblurred_rmse": "truth itself"}
_FULL = "1/1"
BLURRED = ", blurred"
"""At the end of the name of a method whose image is blurred as the truth is."""

_MARKERS = "osD^vP"


class Arm(NamedTuple):
    """A way to spend electrons."""

    geometry: str
    coverage: str
    method: str

    @property
    def is_raster(self) -> bool:
        """Whether all pixels are measured."""
        return self.coverage == _FULL

    def __str__(self) -> str:
        method = self.method.replace("_", " ")
        return f"full raster, {method}" if self.is_raster else f"{self.geometry} {self.coverage}"


def equal_dose_tables(report: Report) -> str:
    """What was compared, and errors by budget against both truths."""
    setup, rows = report.setup, report.rows
    num_crops = len({(row.field, row.image) for row in rows})
    num_fields = len({row.field for row in rows})
    model = f"{setup['model']}, weights SHA-256 {setup['model_sha256']}"
    lines = [
        f"* model: {model if setup['model'] else 'none; sparse scans by the adaptive spline'}",
        f"* data: {counted(num_crops, 'crop')} of {counted(num_fields, 'field')} of view, "
        f"SHA-256 {setup['data_sha256']}",
        f"* seed {setup['seed']}; " + ", ".join(f"{k} {v}" for k, v in setup["versions"].items()),
    ]
    explained = (
        "Columns: electrons for each pixel of the image, at the specimen's highest intensity, "
        "however few pixels they are spent on. RMSE in % of the truth's range, geometric means "
        "over the crops. **Bold**: the best raster and the best sparse scan. Last row: the best "
        "sparse scan to the best raster, below 1 where sparse scanning pays, with its 95% "
        "bootstrap interval over fields of view."
    )
    parts = ["\n".join(lines), explained]
    for score, name in _TRUTHS.items():
        parts += [f"Against the {name}:", equal_dose_table(rows, score)]
    return "\n\n".join(parts)


def equal_dose_table(rows: Sequence[Row], score: Score) -> str:
    """A row for each way to spend electrons, a column for each budget."""
    budgets = _budgets(rows)
    errors = _errors(rows, score)
    arms = list(dict.fromkeys(arm for arm, _ in errors))
    best = {budget: _best(errors, arms, budget) for budget in budgets}
    lines = []
    for arm in arms:
        numbers = [
            f"{100 * geometric_mean(errors[arm, budget].values()):.2f}" for budget in budgets
        ]
        marked = (arm in best[budget] for budget in budgets)
        cells = [f"**{n}**" if mark else n for n, mark in zip(numbers, marked, strict=True)]
        lines.append([str(arm), *cells])
    lines.append(["best sparse / best raster", *(_ratio(errors, arms, b) for b in budgets)])
    return markdown_table(["electrons per px", *map(format_digits, budgets)], lines)


@styled()
def equal_dose_figure(report: Report) -> Any:
    """Errors against both truths by budget: rasters drawn through, spirals dashed.

    Against the blurred truth, denoised rasters are blurred too.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure((6.8, 3.2))
    axes = figure.subplots(1, len(_TRUTHS))
    budgets = _budgets(report.rows)
    for each, (score, name) in zip(axes, _TRUTHS.items(), strict=True):
        for place, (label, arm) in enumerate(_drawn(report.rows, score).items()):
            typical = [100 * geometric_mean(arm[budget].values()) for budget in budgets]
            each.plot(
                *(budgets, typical),
                color=ARM_COLOURS[place % len(ARM_COLOURS)],
                linestyle="-" if label.startswith("full") else "--",
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=3,
                linewidth=1.0,
                label=label,
            )
        each.set(xscale="log", yscale="log", title=f"against the {name}")
        each.set(xlabel="electrons per image pixel", ylabel="RMSE [% of range]")
        each.set_xticks(budgets, [format_digits(budget) for budget in budgets])
        each.set_xticks([], minor=True)
        each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        each.yaxis.set_minor_locator(NullLocator())
        each.yaxis.set_major_formatter("{x:g}")
        each.grid()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _drawn(rows: Iterable[Row], score: Score) -> dict[str, _OfArm]:
    """Errors by budget of what is drawn, by its label."""
    by_arm: dict[Arm, dict[float, Mapping[tuple[str, str], float]]] = {}
    for (arm, budget), errors in _errors(rows, score).items():
        by_arm.setdefault(arm, {})[budget] = errors
    first = next((arm.geometry for arm in by_arm if not arm.is_raster), None)
    drawn: dict[str, _OfArm] = {}
    for arm, of_arm in by_arm.items():
        plain = arm.method.removesuffix(BLURRED)
        has_both = any(plain + BLURRED == other.method for other in by_arm)
        if has_both and (arm.method != plain) != (score == "rmse"):
            continue
        if arm.is_raster or arm.geometry == first:
            drawn[str(arm._replace(method=plain))] = of_arm
    return drawn


_OfArm = Mapping[float, Mapping[tuple[str, str], float]]
_Errors = Mapping[tuple[Arm, float], Mapping[tuple[str, str], float]]
"""Errors of each image, by its field and name, of each arm and budget."""


def _errors(rows: Iterable[Row], score: Score) -> _Errors:
    """Sparse scans are those of the model, if there is one."""
    found: dict[tuple[Arm, float], dict[tuple[str, str], float]] = {}
    rows = list(rows)
    with_model = any(row.method == MODEL for row in rows)
    for row in rows:
        arm = Arm(row.geometry, row.coverage, row.method)
        if not arm.is_raster and with_model and arm.method != MODEL:
            continue
        of_arm = found.setdefault((arm, _budget(row)), {})
        of_arm[row.field, row.image] = max(getattr(row, score), 1e-12)
    return found


def _budget(row: Row) -> float:
    return float(f"{(dose_of(row.noise) or 0) * parse_coverage(row.coverage):.3g}")


def _budgets(rows: Iterable[Row]) -> list[float]:
    return list(grouped(rows, _budget))


def _best(errors: _Errors, arms: Iterable[Arm], budget: float) -> list[Arm]:
    """The best raster and the best sparse scan."""
    by_kind = grouped(arms, lambda arm: arm.is_raster).values()
    return [
        min(of_kind, key=lambda arm: geometric_mean(errors[arm, budget].values()))
        for of_kind in by_kind
    ]


def _ratio(errors: _Errors, arms: Sequence[Arm], budget: float) -> str:
    best = {arm.is_raster: arm for arm in _best(errors, arms, budget)}
    sparse, raster = errors[best[False], budget], errors[best[True], budget]
    fields = [field for field, _ in sparse]
    ratio = geometric_mean(ours / raster[image] for image, ours in sparse.items())
    rasters = [list(errors[arm, budget].values()) for arm in arms if arm.is_raster]
    interval = ratio_interval(list(sparse.values()), rasters, fields)
    return f"{ratio:.2f}" + (" [{:.2f}, {:.2f}]".format(*interval) if interval else "")

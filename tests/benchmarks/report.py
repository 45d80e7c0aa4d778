"""Figures beside what they are compared with, as a table and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stem_complete.benchmark import machine, spread


class Goal(NamedTuple):
    """Limit of a ratio: at most ("<="), or at least (">="), a number."""

    sign: str
    ratio: float

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio <= self.ratio if self.sign == "<=" else ratio >= self.ratio

    def __str__(self) -> str:
        return f"{self.sign} {self.ratio:g}"


class Comparison(NamedTuple):
    """A figure, and what it is compared with.

    Attributes:
        what: What was measured.
        unit: Of the values.
        values: One for each round; none if it could not be measured here.
        against: What it is compared with.
        reference: Its values, in the same rounds.
        goal: For the ratio of both.
        note: How to read the figure; why it was not measured.
    """

    what: str
    unit: str
    values: Sequence[float]
    against: str = ""
    reference: Sequence[float] = ()
    goal: Goal | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each round: whatever slowed the machine down then slowed both."""
        return [value / other for value, other in zip(self.values, self.reference, strict=False)]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio meets the goal; None without one."""
        if self.goal is None or not self.ratios:
            return None
        return self.goal.met(float(np.median(self.ratios)))


def as_markdown(comparisons: Iterable[Comparison]) -> str:
    """Medians with quartiles, one row each, and the machine below."""
    lines = [
        "| | measured | against | ratio | goal | |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for found in comparisons:
        cells = [
            found.what + (f" ({found.note})" if found.note else ""),
            f"{spread(found.values)} {found.unit}" if found.values else "not measured",
            f"{found.against}: {spread(found.reference)} {found.unit}" if found.reference else "",
            spread(found.ratios),
            str(found.goal or ""),
            {True: "met", False: "**missed**", None: ""}[found.met],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    return "\n".join([*lines, "", f"Median (quartiles) over rounds; {facts}."])


def as_json(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """All values of all rounds, and the machine, as plain values."""
    rows = [
        found._asdict()
        | {"ratios": found.ratios, "met": found.met, "goal": str(found.goal or "") or None}
        for found in comparisons
    ]
    return {"machine": machine(), "comparisons": rows}

"""How the learning rate and beta1 change from step to step, as factors on what a stage has."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from stem_complete.config.section import Fraction01, Section

Place = NonNegativeInt | Fraction01
"""A step of a run, or a fraction of the run like 0.5."""
Length = PositiveInt | Annotated[float, Field(gt=0, le=1)]
"""So many steps, or a fraction of the run like 0.5."""
Factor = Annotated[float, Field(ge=0)]


def in_steps(value: float, steps: int) -> int:
    """Steps of a `Place` or a `Length` in a run of so many."""
    return value if isinstance(value, int) else round(value * steps)


class _Schedule(Section):
    changes_every_step: ClassVar[bool] = True

    @property
    def highest(self) -> float:
        """The highest factor that it can have."""
        return 1.0


class ConstantSchedule(_Schedule):
    """1 throughout."""

    changes_every_step: ClassVar[bool] = False
    kind: Literal["constant"] = "constant"


class StepSchedule(_Schedule):
    """Multiplied by gamma every so many steps."""

    changes_every_step: ClassVar[bool] = False
    kind: Literal["step"] = "step"
    every: Length
    gamma: Fraction01 = 0.1


class LinearSchedule(_Schedule):
    """Straight lines through points, and level before the first and after the last one."""

    kind: Literal["linear"] = "linear"
    points: tuple[tuple[Place, Factor], ...] = Field(
        description="step and factor of each, as in [[0, 0], [500, 1], [1.0, 0]]", min_length=1
    )

    @property
    def highest(self) -> float:
        """That of the highest point."""
        return max(factor for _, factor in self.points)


class CyclicSchedule(_Schedule):
    """To and fro, or to and at once back, in straight lines (Smith 2017, arXiv:1506.01186)."""

    kind: Literal["cyclic"] = "cyclic"
    up: Length = Field(description="from the start of a cycle to its turn")
    down: Place | None = Field(
        None,
        description="from there to its end; None is as long; at 0 the next cycle begins in place "
        "of the turn",
    )
    ends: Factor = Field(0.1, description="factor at both ends of a cycle")
    turn: Factor = Field(1.0, description="factor at its turn")
    shrink: Fraction01 = Field(
        1.0, description="of the way to the turn, from cycle to cycle; 0.5 is `triangular2`"
    )

    @property
    def highest(self) -> float:
        """That at the ends or at the turn."""
        return max(self.ends, self.turn)


class CosineSchedule(_Schedule):
    """Half a cosine from 1 to `low`, again and again (Loshchilov and Hutter 2017, SGDR)."""

    kind: Literal["cosine"] = "cosine"
    period: Length = Field(1.0, description="up to the first restart; 1.0 never restarts")
    times: PositiveInt = Field(1, description="as long is each period as the one before it")
    low: Fraction01 = 0.0


ScheduleConfig = Annotated[
    ConstantSchedule | StepSchedule | LinearSchedule | CyclicSchedule | CosineSchedule,
    Field(discriminator="kind"),
]

"""Several runs that are compared."""

from __future__ import annotations

import fnmatch
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from stem_complete.config.section import Section


class SweepConfig(Section):
    """Several runs that differ in a few keys, tracked as children of one run."""

    arms: dict[str, dict[str, Any]] = Field(
        description="name of each arm -> the sections and keys in which it differs", min_length=1
    )
    only: tuple[str, ...] | None = Field(
        None,
        description="arms that are trained: names, or patterns such as quartic-*; None: all",
        min_length=1,
    )
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    at_a_time: PositiveInt | None = Field(
        None,
        description="runs that are trained side by side on Ray at most; None: as many as the "
        "cluster has room for; 1: one after the other, as without Ray",
    )

    @model_validator(mode="after")
    def _only_names_arms(self) -> Self:
        for pattern in self.only or ():
            if not fnmatch.filter(self.arms, pattern):
                raise ValueError(
                    f"sweep.only={pattern} is none of the arms; correct it, or take one of "
                    f"{', '.join(self.arms)}"
                )
        return self

    def chosen_arms(self) -> dict[str, dict[str, Any]]:
        """The arms that are trained, in their order."""
        chosen = {
            arm for pattern in self.only or ("*",) for arm in fnmatch.filter(self.arms, pattern)
        }
        return {arm: changes for arm, changes in self.arms.items() if arm in chosen}

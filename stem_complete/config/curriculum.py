"""Easier scans first."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stem_complete.config.schedules import Length
from stem_complete.config.section import Coverage, Fraction01, Section


class CurriculumConfig(Section):
    """Training scans that begin easy and become those of the config, see `scan.Curriculum`."""

    until: Length = Field(0.5, description="how long it lasts")
    levels: PositiveInt = Field(8, description="so many parts of equal length, each harder")
    coverage: Coverage | None = Field(
        None, description="the least at first, which falls to the config's lowest; None: that"
    )
    dose_electrons_per_px: PositiveFloat | None = Field(
        None, description="the same for the dose of detector noise"
    )
    noisy_fraction: Fraction01 | None = Field(
        None, description="at first, rising to augmentation.noisy_fraction; None: that"
    )

    @model_validator(mode="after")
    def _eases_something(self) -> Self:
        if self.coverage is self.dose_electrons_per_px is self.noisy_fraction is None:
            raise ValueError("needs a coverage, a dose_electrons_per_px or a noisy_fraction")
        return self

"""What all sections of a config have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stem_complete.vocabulary import parse_coverage

Fraction01 = Annotated[float, Field(ge=0, le=1)]
Coverage = Annotated[float, BeforeValidator(parse_coverage)]


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

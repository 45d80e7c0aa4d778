"""Parameters of requests: how a scan is to be read and completed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from stem_complete.data.scan_options import ScanOptions
from stem_complete.serving.service.completing import How
from stem_complete.vocabulary import DwellUnit

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?"
_Pair = Annotated[str, StringConstraints(pattern=rf"^{_NUMBER},{_NUMBER}$", max_length=80)]
_Shape = Annotated[str, StringConstraints(pattern=r"^\d{1,6},\d{1,6}$")]
_Name = Annotated[str, StringConstraints(max_length=200)]


class HowQuery(BaseModel):
    """What is to be found of a scan, as for `stem-complete complete`."""

    model_config = ConfigDict(extra="forbid")

    error_map: bool = Field(True, description="Estimate the error of each pixel.")
    self_check: bool = Field(True, description="Predict held-out parts of the scan.")
    keep_measured: bool = Field(False, description="Blend measured pixels back.")

    @property
    def how(self) -> How:
        """The same as the service's own type."""
        return How(self.error_map, self.self_check, self.keep_measured)


class ReadQuery(HowQuery):
    """What a body does not say of itself, as for `stem-complete complete`."""

    signal: _Name | None = Field(None, description="Detector, of files with several.")
    unmeasured: float | None = Field(None, description="Value of pixels that were not measured.")
    dwell_unit: DwellUnit | None = Field(None, description="Unit of dwell times.")
    full_dwell: float | None = Field(None, description="Dwell of a pixel in a full scan.")
    shape: _Shape | None = Field(None, description="Height,width of the image of samples [px].")
    position_unit: _Name | None = Field(None, description="Unit of positions, such as px or nm.")
    step: float | None = Field(None, description="Distance of neighbouring pixels in that unit.")
    origin: _Pair | None = Field(None, description="x,y of the first pixel's centre in that unit.")

    @property
    def options(self) -> ScanOptions:
        """How the body is to be read."""
        shape = self.shape and tuple(map(int, self.shape.split(",")))
        origin = self.origin and tuple(map(float, self.origin.split(",")))
        return ScanOptions(
            self.signal,
            self.unmeasured,
            self.dwell_unit,
            self.full_dwell,
            shape or None,  # type: ignore[arg-type]
            self.position_unit,
            self.step,
            origin or None,  # type: ignore[arg-type]
        )


class ShowQuery(BaseModel):
    """What of a completion is wanted."""

    model_config = ConfigDict(extra="forbid")

    show: Literal["image", "error"] = Field(
        "image", description="Which array, of formats of one: NPY, TIFF, PNG."
    )


class CompleteQuery(ReadQuery, ShowQuery):
    """Parameters of one completion."""

    name: _Name = Field("", description="What the scan is called; its suffix may say its format.")

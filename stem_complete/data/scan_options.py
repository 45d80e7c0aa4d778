"""What files of partial scans do not say of themselves."""

from __future__ import annotations

from dataclasses import dataclass

from stem_complete.vocabulary import DwellUnit

SECONDS: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class ScanOptions:
    """How files of partial scans are to be read; None leaves it to the file.

    Attributes:
        signal: Name of the detector, of files with several.
        unmeasured: Value of pixels that were not measured, beside NaN; NaN if there is none other.
        dwell_unit: Unit of dwell times: "full" pixel dwells, "counts" of visits or clock ticks, or
            of time. None: whole numbers are counts, others full pixel dwells.
        full_dwell: Dwell of a pixel in a full scan, in that unit. None: the longest of counts;
            times need it.
        shape: (h, w) of the image [px], of positions.
        position_unit: Unit of positions, such as "px", "nm" or "V".
        step: Distance of neighbouring pixels in that unit, where it is not px.
        origin: (x, y) of the centre of the first pixel in that unit.
    """

    signal: str | None = None
    unmeasured: float | None = None
    dwell_unit: DwellUnit | None = None
    full_dwell: float | None = None
    shape: tuple[int, int] | None = None
    position_unit: str | None = None
    step: float | None = None
    origin: tuple[float, float] | None = None


AS_STORED = ScanOptions()

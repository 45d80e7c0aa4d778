"""ALRC as a config describes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stem_complete.config import ALRCConfig
from stem_complete.losses import ALRC


def alrc_of(config: ALRCConfig | None) -> Callable[[], ALRC] | None:
    """Makes the ALRC of one loss of a task; None where no loss is clipped."""
    if config is None:
        return None
    return partial(
        ALRC,
        config.num_stddev,
        config.decay,
        config.mu1_start,
        config.mu2_start,
        config.moments,
        accumulate=True,
        variance_floor=config.variance_floor,
        num_stddev_below=config.num_stddev_below,
        intake=config.intake,
    )

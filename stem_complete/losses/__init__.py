"""Losses: reconstruction errors per example, Huberisation, adaptive learning rate clipping."""

from stem_complete.losses.alrc import ALRC, ClippingLosses
from stem_complete.losses.reconstruction import half_size, huberise, mean_power

__all__ = ["ALRC", "ClippingLosses", "half_size", "huberise", "mean_power"]

"""Synthetic micrographs, drawn from keys on the device."""

from stem_complete.data.synthetic.micrograph import replace_by_synthetic, synthetic_micrographs

__all__ = ["replace_by_synthetic", "synthetic_micrographs"]

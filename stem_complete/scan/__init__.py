"""Paths of the probe, their dwell maps, and partial scans simulated along them."""

from stem_complete.scan.acquire import (
    DetectorNoise,
    NoiseModel,
    NoNoise,
    PartialScan,
    ReferenceNoise,
    acquire,
    blur,
    flip_rotate,
)
from stem_complete.scan.augment import magnify
from stem_complete.scan.encode import CORRECTED, NUM_CHANNELS, NetworkInput, encode
from stem_complete.scan.fill import fill_sigma_px, normalised_convolution, spline_fill
from stem_complete.scan.path import GEOMETRIES, ScanPath, archimedean, drawn_archimedean
from stem_complete.scan.random import example_keys, fold, integers, normal, poisson, uniform
from stem_complete.scan.raster import deposit
from stem_complete.scan.simulate import ScanSimulator, SimulatedBatch
from stem_complete.scan.waves import plane_waves

__all__ = [
    "CORRECTED",
    "GEOMETRIES",
    "NUM_CHANNELS",
    "DetectorNoise",
    "NetworkInput",
    "NoNoise",
    "NoiseModel",
    "PartialScan",
    "ReferenceNoise",
    "ScanPath",
    "ScanSimulator",
    "SimulatedBatch",
    "acquire",
    "archimedean",
    "blur",
    "deposit",
    "drawn_archimedean",
    "encode",
    "example_keys",
    "fill_sigma_px",
    "flip_rotate",
    "fold",
    "integers",
    "magnify",
    "normal",
    "normalised_convolution",
    "plane_waves",
    "poisson",
    "spline_fill",
    "uniform",
]

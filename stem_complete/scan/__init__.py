"""Paths of the probe, their dwell maps, and partial scans simulated along them."""

from stem_complete.scan.acquisition import acquire, acquire_pixels
from stem_complete.scan.augment import Augmentation
from stem_complete.scan.detector import Detector, ScanHardware
from stem_complete.scan.encoding import CORRECTED, NUM_CHANNELS, encode
from stem_complete.scan.filters import blur, fill_sigma_px, normalised_convolution
from stem_complete.scan.geometries import (
    GEOMETRIES,
    archimedean,
    drawn_archimedean,
    nominal_archimedean,
)
from stem_complete.scan.lattice import plane_waves
from stem_complete.scan.network_input import NetworkInput
from stem_complete.scan.noise import NoiseModel, NoNoise, ReferenceNoise
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.path import ScanPath
from stem_complete.scan.random import Stream, example_keys, fold_in, normal, uniform
from stem_complete.scan.raster import deposit
from stem_complete.scan.simulate import Detection, ScanSimulator, SimulatedBatch
from stem_complete.scan.splines import spline_fill

__all__ = [
    "CORRECTED",
    "GEOMETRIES",
    "NUM_CHANNELS",
    "Augmentation",
    "Detection",
    "Detector",
    "NetworkInput",
    "NoNoise",
    "NoiseModel",
    "PartialScan",
    "ReferenceNoise",
    "ScanHardware",
    "ScanPath",
    "ScanSimulator",
    "SimulatedBatch",
    "Stream",
    "acquire",
    "acquire_pixels",
    "archimedean",
    "blur",
    "deposit",
    "drawn_archimedean",
    "encode",
    "example_keys",
    "fill_sigma_px",
    "fold_in",
    "nominal_archimedean",
    "normal",
    "normalised_convolution",
    "plane_waves",
    "spline_fill",
    "uniform",
]

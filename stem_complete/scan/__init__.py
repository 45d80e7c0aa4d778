"""Paths of the probe, their dwell maps, and partial scans simulated along them."""

from stem_complete.scan.acquisition import acquire, acquire_pixels, acquire_samples
from stem_complete.scan.augment import Augmentation
from stem_complete.scan.curriculum import Curriculum, falling
from stem_complete.scan.detector import Detector, ScanHardware
from stem_complete.scan.encoding import CORRECTED, NUM_CHANNELS, encode
from stem_complete.scan.filters import blur, fill_sigma_px, normalised_convolution
from stem_complete.scan.geometries import (
    GEOMETRIES,
    RANDOM_GEOMETRIES,
    archimedean,
    archimedean_angular,
    custom,
    drawn_archimedean,
    fermat,
    hilbert,
    interleaved_raster,
    jittered_grid,
    line_hop,
    lissajous,
    nominal_archimedean,
    random_pixels,
    random_walk,
    serpentine_raster,
    sparse_rows,
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
    "RANDOM_GEOMETRIES",
    "Augmentation",
    "Curriculum",
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
    "acquire_samples",
    "archimedean",
    "archimedean_angular",
    "blur",
    "custom",
    "deposit",
    "drawn_archimedean",
    "encode",
    "example_keys",
    "falling",
    "fermat",
    "fill_sigma_px",
    "fold_in",
    "hilbert",
    "interleaved_raster",
    "jittered_grid",
    "line_hop",
    "lissajous",
    "nominal_archimedean",
    "normal",
    "normalised_convolution",
    "plane_waves",
    "random_pixels",
    "random_walk",
    "serpentine_raster",
    "sparse_rows",
    "spline_fill",
    "uniform",
]

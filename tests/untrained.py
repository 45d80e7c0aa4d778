"""An untrained model, and scans of synthetic textures for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from strategies import micrograph

from stem_complete.config import Config, load_config
from stem_complete.inference import (
    Artifact,
    Completer,
    ErrorCalibration,
    build_artifact,
    save_artifact,
)
from stem_complete.inference.error_features import FEATURES
from stem_complete.models import TwoStageNetwork, build_network, initialise
from stem_complete.scan import PartialScan, archimedean, encode

Image = NDArray[np.float64]


@pytest.fixture(scope="session")
def texture() -> Callable[..., Image]:
    def make(seed: int, shape: tuple[int, int] = (96, 96)) -> Image:
        """A smooth random image of mean 0 and deviation 1."""
        return micrograph("texture", seed, shape)

    return make


@pytest.fixture(scope="session")
def spiral() -> Callable[..., tuple[Image, NDArray[np.float32]]]:
    def scan(image: Image, coverage: str = "1/10") -> tuple[Image, NDArray[np.float32]]:
        """Intensities, NaN where not measured, and dwell, of a scan without noise."""
        dwell = archimedean(image.shape, coverage).dwell_map().numpy()
        return np.where(dwell > 0, image, np.nan), dwell

    return scan


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    def make(*overrides: str) -> Config:
        base = ("name=tiny", "data.store=nowhere", "model.preset=compact", "scan.coverage=1/10")
        return load_config([], [*base, *overrides])

    return make


@pytest.fixture(scope="session")
def make_network(texture, spiral) -> Callable[[Config], TwoStageNetwork]:
    intensity, dwell = (torch.as_tensor(a).float()[None, None] for a in spiral(texture(0)))

    def make(config: Config) -> TwoStageNetwork:
        """Untrained; initialised on a scan, so that its images have the contrast of real ones."""
        torch.manual_seed(0)
        model = config.model
        network = build_network(
            model.preset,
            bias=model.bias,
            leaky_slope=model.leaky_slope,
            mean_norm_at_inference=model.mean_norm_at_inference,
            reference_layers=model.reference_layers,
        )
        initialise(network, encode(PartialScan(intensity, dwell), model.encoding).x)
        return network

    return make


@pytest.fixture(scope="session")
def config(make_config) -> Config:
    return make_config()


@pytest.fixture(scope="session")
def network(make_network, config) -> TwoStageNetwork:
    return make_network(config)


@pytest.fixture(scope="session")
def calibration() -> ErrorCalibration:
    num = len(FEATURES)
    return ErrorCalibration(
        means=(0.0,) * num,
        deviations=(1.0,) * num,
        lowest=(-4.0,) * num,
        highest=(4.0,) * num,
        slopes=(0.05,) * num,
        curvatures=((0.0,) * num,) * num,
        constant=-1.0,
        least=-2.0,
        most=0.0,
        num_images=2,
    )


@pytest.fixture(scope="session")
def artifact(network, config, calibration) -> Artifact:
    return build_artifact(network, config=config, calibration=calibration)


@pytest.fixture(scope="session")
def completer(artifact) -> Completer:
    return Completer(artifact, "cpu")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, artifact) -> Path:
    return save_artifact(tmp_path_factory.mktemp("run") / "model", artifact)

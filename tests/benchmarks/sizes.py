"""Scans of any size: seams of tiles, and what large scans cost beside small ones."""

import multiprocessing
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch

from stem_complete.data.bundled import example_micrographs
from stem_complete.inference import Completer, load_completer
from stem_complete.inference.completer import OVERLAP_PX, TILE_PX
from stem_complete.inference.sources import load_model
from stem_complete.scan import blur

from . import Setting
from .report import Comparison, Goal

HELD_OUT = ("bshev_nps_1.tif", "sjeon_ptporph_1h_3.tif")
COVERAGE, NOISE = 0.1, 0.2  # of random pixels; in deviations of the micrograph
GIB = 2**30


def run(setting: Setting) -> Iterator[Comparison]:
    """Seams beside errors; memory and CPU time beside a limit and beside small scans."""
    yield from seams(setting)
    sides, small = ((128,), 64) if setting.quick else ((4096, 8192), 1024)
    costs: dict[int, list[tuple[float, float]]] = {side: [] for side in (small, *sides)}
    for _ in range(setting.rounds):
        for side, found in costs.items():
            found.append(cost(side, setting.device))
    for side in sides:
        yield Comparison(
            f"largest memory of completing {side:,}x{side:,} px with error map, encoding included",
            "GiB",
            [memory for memory, _ in costs[side]],
            "limit of 8,192x8,192 px",
            [6.0] * setting.rounds,
            Goal("<=", 1.0),
        )
        yield Comparison(
            f"CPU time of a megapixel of {side:,}x{side:,} px",
            "s",
            [1e6 * seconds / side**2 for _, seconds in costs[side]],
            f"of {small:,}x{small:,} px",
            [1e6 * seconds / small**2 for _, seconds in costs[small]],
            None if setting.quick else Goal("<=", 1.5),
        )


def seams(setting: Setting) -> Iterator[Comparison]:
    """How far completions in tiles are from those of the whole, beside what these err."""
    model = load_model()
    side, tile_px, overlap_px = (256, 128, 64) if setting.quick else (2048, 1024, 128)
    tiled = Completer(model, setting.device, tile_px=tile_px, overlap_px=overlap_px)
    whole = Completer(model, setting.device, tile_px=side, overlap_px=overlap_px)
    found: dict[str, list[float]] = {"seams": [], "errors": []}
    for number in range(setting.rounds):
        scan, truth = enlarged(side, number)
        images = [each.complete(scan, error_map=False).image for each in (tiled, whole)]
        found["seams"].append(rms(images[0] - images[1]))
        found["errors"].append(rms(images[1] - truth))
    yield Comparison(
        f"{side:,}x{side:,} px in tiles of {tile_px:,} px less the same at once",
        "deviations",
        found["seams"],
        "error of the same at once",
        found["errors"],
        Goal("<=", 0.1),
        f"root mean squares; by default tiles have {TILE_PX:,} px and overlap by {OVERLAP_PX} px",
    )


def enlarged(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan of random pixels [side, side] of a held-out micrograph beside its mirror images.

    The truth beside it is the blurred micrograph. Both are in units of its deviation.
    """
    (path,) = (each for each in example_micrographs() if each.name == HELD_OUT[seed % 2])
    image = tifffile.imread(path).astype(np.float32)
    image = (image - image.mean()) / image.std()
    missing = max(side - image.shape[0], 0), max(side - image.shape[1], 0)
    image = np.pad(image, [(0, each) for each in missing], mode="symmetric")[:side, :side]
    truth = blur(torch.from_numpy(np.ascontiguousarray(image))[None, None])[0, 0].numpy()
    rng = np.random.default_rng(seed)
    scan = image + NOISE * rng.standard_normal(image.shape, np.float32)
    scan[rng.random(image.shape, np.float32) >= COVERAGE] = np.nan
    return scan, truth


def rms(image: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(image**2, dtype=np.float64)))


def cost(side: int, device: torch.device) -> tuple[float, float]:
    """Largest memory [GiB] and CPU time [s] of one completion, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_cost, (side, str(device), torch.get_num_threads()))


def _cost(side: int, device: str, num_threads: int) -> tuple[float, float]:
    torch.set_num_threads(num_threads)
    completer = load_completer(device=device)
    scan = enlarged(side, 0)[0]
    started = time.process_time()
    completer.complete(scan)
    seconds = time.process_time() - started
    # Unlike `getrusage`, it knows nothing of the process that began this one.
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024 / GIB, seconds

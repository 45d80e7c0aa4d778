"""The scans of a batch that say of themselves that they were completed worst, as one picture."""

from __future__ import annotations

from heapq import heappush, heapreplace
from pathlib import Path
from tempfile import TemporaryDirectory

from upath import UPath

from stem_complete.inference.image_files import COMPLETED
from stem_complete.serving.batch.units import Destination, Unit
from stem_complete.storage.paths import clear_errors, write_atomically

WORST = f"worst{COMPLETED}.png"  # whose name no search takes for a scan
NUM_WORST = 9


class Worst:
    """Of all scans that are added, those with the largest misfit."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, Unit, int]] = []
        self._num_added = 0

    def add(self, unit: Unit, place: int, misfit: float | None) -> None:
        """Adds a scan of a unit; without a misfit it does not say how well it was completed."""
        self._num_added += 1
        if misfit is None:
            return
        entry = (misfit, str(unit.scans[place]), unit, place)
        if len(self._heap) < NUM_WORST:
            heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapreplace(self._heap, entry)

    def draw(self, destination: Destination, folder: UPath) -> None:
        """Draws their completions, the worst first, into a folder; of few scans one looks at all.

        Raises:
            StorageError: The picture cannot be written.
        """
        if not self._heap or self._num_added <= NUM_WORST:
            return
        from stem_complete.evaluation import contact_sheet, save_png

        shown = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))
        images = [destination.image(unit, place) for _, _, unit, place in shown]
        labels = [f"{Path(name).name}: {misfit:.2f}" for misfit, name, _, _ in shown]
        steps = [max(1, max(image.shape) // 512) for image in images]
        small = [image[::step, ::step] for image, step in zip(images, steps, strict=True)]
        with TemporaryDirectory(prefix="stem-complete-") as temporary:
            drawn = Path(temporary, WORST)
            save_png(contact_sheet(small, labels), drawn)
            with clear_errors(folder):
                write_atomically(folder / WORST, drawn.read_bytes())

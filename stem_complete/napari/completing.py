"""Scans of a layer -> layers of their completions, here or by a service, step by step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import plain
from stem_complete.data.scans import RasterScan
from stem_complete.inference import CompletedScan, Outputs, RemoteCompleter, load_completer
from stem_complete.inference.complete import unfamiliar
from stem_complete.inference.image_files import completion_info
from stem_complete.napari.layers import COMPLETION, ERROR, LayerData, Source, image_layer


class Step(NamedTuple):
    """What is done next.

    Attributes:
        text: In words.
        done: Number of steps that are done.
        total: Of all steps.
    """

    text: str
    done: int
    total: int


class Completed(NamedTuple):
    """A completion.

    Attributes:
        image: [h, w] float32, in the units of the scan.
        error: Expected root mean square error of each pixel, None if it was not asked for.
        info: What completed images say of themselves, but for the self-check.
        check: Self-check, with its note; None if it was not asked for.
        notes: What to tell of it.
    """

    image: NDArray[np.float32]
    error: NDArray[np.float32] | None
    info: dict[str, Any]
    check: dict[str, Any] | None
    notes: list[str]


class Completing(Protocol):
    """Whoever completes scans; between its steps it can be left."""

    def steps(self, outputs: Outputs) -> list[str]:
        """The steps of one scan, in words."""

    def complete(self, scan: RasterScan, outputs: Outputs) -> Generator[None, None, Completed]:
        """Completes a scan; yields between its steps."""


class Here:
    """Completes in this process.

    Args:
        model: Name of the model, see `load_completer`.

    Raises:
        StemCompleteError: There is no such model.
    """

    def __init__(self, model: str) -> None:
        self._completer = load_completer(model)

    def steps(self, outputs: Outputs) -> list[str]:
        """See `Completing`."""
        return [*(["self-check"] if outputs.self_check else []), "completion"]

    def complete(self, scan: RasterScan, outputs: Outputs) -> Generator[None, None, Completed]:
        """See `Completing`."""
        check = None
        if outputs.self_check:
            check = self._completer.self_check(scan)
            yield
        completion = self._completer.complete_scan(
            scan, error_map=outputs.error_map, check=check, keep_measured=outputs.keep_measured
        )
        completed = CompletedScan(scan, completion, self._completer.card, check)
        info = completion_info([completed], outputs, {}, {})
        checks = info.pop("self_check", [None])
        notes = [*scan.notes, unfamiliar(completed), check.note if check else ""]
        return Completed(*completion, info, checks[0], [note for note in notes if note])


class There:
    """Completes by a service.

    Args:
        url: Where it is.
        token: That its administrator gave, if it wants one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._completer, self._url = RemoteCompleter(url, token), url

    def steps(self, outputs: Outputs) -> list[str]:  # noqa: ARG002 - the service does all at once
        """See `Completing`."""
        return [f"completion by {self._url}"]

    def complete(self, scan: RasterScan, outputs: Outputs) -> Generator[None, None, Completed]:
        """See `Completing`."""
        image, error, info = self._completer.complete(
            scan,
            error_map=outputs.error_map,
            self_check=outputs.self_check,
            keep_measured=outputs.keep_measured,
        )
        yield from ()
        # It knows no more of the scan than its pixels.
        info |= {"scan": scan.name, "title": scan.about.title, "pixel_size_nm": scan.pixel_size_nm}
        notes = [*scan.notes, *info.pop("notes")]
        return Completed(image, error, info, info.pop("self_check"), notes)


def complete_layer(
    source: Source, completing: Completing, outputs: Outputs
) -> Generator[Step, None, list[LayerData]]:
    """Completes the scans of a layer, one by one.

    Yields:
        Each step before it is done.

    Returns:
        The completion and its error map as layers in the place of their scan; a stack of a stack.

    Raises:
        StemCompleteError: A scan cannot be completed.
    """
    steps = completing.steps(outputs)
    total = source.num_scans * len(steps)
    completed = []
    for number in range(source.num_scans):
        of = f" of {number + 1} of {source.num_scans}" if source.num_scans > 1 else ""
        told = [
            Step(f"{step}{of}", number * len(steps) + before, total)
            for before, step in enumerate(steps)
        ]
        yield told[0]
        work = completing.complete(source.scan(number), outputs)
        for step in told[1:]:
            next(work)
            yield step
        completed.append(_result(work))
    return _layers(source, completed)


def _result(work: Generator[None, None, Completed]) -> Completed:
    """What a generator returns that is at its last step."""
    try:
        next(work)
    except StopIteration as end:
        result: Completed = end.value
        return result
    raise AssertionError


def _layers(source: Source, completed: Sequence[Completed]) -> list[LayerData]:
    checks = [plain(each.check) for each in completed if each.check is not None]
    known = {
        **completed[0].info,
        **({"self_check": checks} if checks else {}),
        "notes": list(dict.fromkeys(note for each in completed for note in each.notes)),
        "of": source.name,
    }
    image = _stacked([each.image for each in completed], source)
    layers = [image_layer(image, f"{source.name} completed", COMPLETION, source.place, known)]
    if (errors := [each.error for each in completed if each.error is not None]) != []:
        error = _stacked(errors, source)
        layers.insert(0, image_layer(error, f"{source.name} error", ERROR, source.place, known))
    return layers


def _stacked(images: Sequence[NDArray[np.float32]], source: Source) -> NDArray[np.float32]:
    """The images in the shape of their scans: of a stack of one, a stack of one."""
    return images[0] if source.data.ndim == 2 else np.stack(images)

"""The panel that completes the scans of a layer, beside napari's viewer."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    LineEdit,
    Password,
    ProgressBar,
    PushButton,
    TextEdit,
)
from napari.layers import Image, Labels, Layer
from napari.qt.threading import create_worker

from stem_complete.data.scan_options import ScanOptions
from stem_complete.errors import ConfigError, failure_of
from stem_complete.inference import Outputs
from stem_complete.napari.completing import Completing, Here, Step, There, complete_layer
from stem_complete.napari.layers import (
    DWELL,
    SCAN,
    LayerData,
    Source,
    belongs,
    known_of,
    source_of,
)

if TYPE_CHECKING:
    import napari.viewer

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")

HERE, THERE = "on this computer", "by a service"


class CompletionPanel(Container):  # type: ignore[misc]  # it has no types
    """Completes the scans of a layer, in a thread; the completions become layers.

    Args:
        viewer: napari's viewer, or its model.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._worker: Any = None
        self.scan = ComboBox(label="scan", choices=self._scans, nullable=True)
        self.dwell = ComboBox(
            label="dwell map",
            choices=self._dwells,
            nullable=True,
            tooltip="Time that the probe spent in each pixel. Without one, NaN is not measured, or "
            "one value that fills the gaps of a path.",
        )
        self.full_dwell = LineEdit(
            label="full dwell",
            tooltip="Value of the dwell map in a pixel of a complete scan; empty: 1, or the "
            "largest of whole numbers.",
        )
        self.unmeasured = LineEdit(
            label="unmeasured",
            tooltip="Value of pixels that were not measured, beside NaN; empty: one that fills the "
            "gaps of a path is recognised; nan: none.",
        )
        self.where = ComboBox(label="complete", choices=[HERE, THERE])
        self.model = LineEdit(
            label="model",
            value="released",
            tooltip="released, the folder of a model or run, or models:/NAME@alias of MLflow.",
        )
        self.address = LineEdit(label="address", value="http://127.0.0.1:8000")
        self.token = Password(label="token", tooltip="That the service's administrator gave.")
        self.error_map = CheckBox(text="error map", value=True)
        self.self_check = CheckBox(
            text="self-check",
            value=True,
            tooltip="Predict held-out parts of the scan, and use no more of the model than they "
            "agree with; takes longer than completing.",
        )
        self.keep_measured = CheckBox(
            text="keep what was measured",
            tooltip="Blend measured pixels back, weighted by their precision.",
        )
        self.begin = PushButton(text="Complete")
        self.cancel = PushButton(
            text="Cancel", enabled=False, tooltip="Takes effect after the step under way."
        )
        self.progress = ProgressBar(min=0, max=1, visible=False)
        self.told = TextEdit()
        self.told.read_only = True
        buttons = Container(widgets=[self.begin, self.cancel], layout="horizontal", labels=False)
        self.extend(
            [
                self.scan, self.dwell, self.full_dwell, self.unmeasured,
                self.where, self.model, self.address, self.token,
                self.error_map, self.self_check, self.keep_measured,
                Container(widgets=[buttons, self.progress, self.told], labels=False),
            ]
        )  # fmt: skip
        self.begin.changed.connect(self._begin)
        self.cancel.changed.connect(self._cancel)
        self.scan.changed.connect(self._choose_dwell)
        self.where.changed.connect(self._show_fields)
        layers = viewer.layers.events
        self._heard = [
            *(
                (event, self._refresh)
                for event in (layers.inserted, layers.removed, layers.renamed)
            ),
            (viewer.layers.selection.events.active, self._choose_active),
        ]
        for event, react in self._heard:
            event.connect(react)
        self.native.destroyed.connect(self._leave)
        self._show_fields()
        self._choose_active()

    @property
    def is_busy(self) -> bool:
        """Whether something is being completed."""
        return self._worker is not None

    def _scans(self, _: object = None) -> list[Layer]:
        """Layers that may be scans."""
        layers = [each for each in self._viewer.layers if isinstance(each, Image)]
        return [each for each in layers if known_of(each).get("shows", SCAN) == SCAN]

    def _dwells(self, _: object = None) -> list[Layer]:
        """Layers that may be dwell maps: images and masks of the shape of the scan."""
        scan = self.scan.value if hasattr(self, "scan") else None
        return [
            each
            for each in self._viewer.layers
            if scan is not None
            and isinstance(each, Image | Labels)
            and each is not scan
            and tuple(each.data.shape[-2:]) == tuple(scan.data.shape[-2:])
        ]

    def _refresh(self, _: object = None) -> None:
        self.scan.reset_choices()
        self._choose_dwell()

    def _choose_active(self, _: object = None) -> None:
        """A layer that the user selects is the scan, if it is known as one or there is none yet.

        What is known of it is told.
        """
        self._refresh()
        active = self._viewer.layers.selection.active
        is_known = active is not None and known_of(active).get("shows") == SCAN
        if is_known or (self.scan.value is None and active in self._scans()):
            self.scan.value = active
        if active is not None and not self.is_busy:
            self._tell("\n".join(_notes_of(active)))

    def _choose_dwell(self, _: object = None) -> None:
        """The dwell map that was read with the scan; another one stays only if it fits."""
        self.dwell.reset_choices()
        scan, dwells = self.scan.value, self._dwells()
        if scan is None:
            return
        own = next((each for each in dwells if belongs(each, scan)), None)
        if own is not None or known_of(self.dwell.value or scan).get("shows") == DWELL:
            self.dwell.value = own

    def _show_fields(self, _: object = None) -> None:
        is_here = self.where.value == HERE
        self.model.visible = is_here
        self.address.visible = self.token.visible = not is_here

    def _begin(self, _: object = None) -> None:
        try:
            source = self._source()
        except Exception as error:
            self._show_error(error)
            return
        outputs = Outputs(
            error_map=self.error_map.value,
            self_check=self.self_check.value,
            keep_measured=self.keep_measured.value,
        )
        place = (self.where.value, self.model.value, self.address.value, self.token.value)
        self._set_busy(create_worker(_complete, source, outputs, *place, _ignore_errors=True))
        self._worker.yielded.connect(self._show_step)
        self._worker.returned.connect(self._show_layers)
        self._worker.errored.connect(self._show_error)
        self._worker.aborted.connect(self._show_cancelled)
        self._worker.finished.connect(self._end)
        self._worker.start()

    def _source(self) -> Source:
        if self.scan.value is None:
            raise ConfigError(
                expected="a layer with a partial scan",
                found="none",
                where="scan",
                fix="open one, or File > Open Sample > stem-complete",
            )
        options = ScanOptions(
            unmeasured=_number(self.unmeasured), full_dwell=_number(self.full_dwell)
        )
        return source_of(self.scan.value, self.dwell.value, options)

    def _cancel(self, _: object = None) -> None:
        if self._worker is not None:
            self._worker.quit()
            self._tell("cancelled after the step under way")

    def _set_busy(self, worker: Any) -> None:
        self._worker = worker
        self.begin.enabled, self.cancel.enabled = worker is None, worker is not None
        self.progress.visible = worker is not None

    def _show_step(self, step: Step) -> None:
        self.progress.max = step.total
        self.progress.value = step.done
        self._tell(step.text)

    def _show_layers(self, layers: list[LayerData]) -> None:
        *_, completion = [self._viewer.add_layer(Layer.create(*each)) for each in layers]
        self._tell("\n".join(_notes_of(completion)))

    def _show_error(self, error: Exception) -> None:
        self._tell(str(failure_of(error)))

    def _show_cancelled(self) -> None:
        self._tell("cancelled")

    def _end(self) -> None:
        self._set_busy(None)

    def _leave(self, _: object = None) -> None:
        """Hears no more, as Qt has destroyed the fields, and ends what is under way."""
        for event, react in self._heard:
            event.disconnect(react)
        if self._worker is not None:
            for signal in ("yielded", "returned", "errored", "aborted", "finished"):
                getattr(self._worker, signal).disconnect()
            self._worker.quit()

    def _tell(self, text: str) -> None:
        """Shows a text, in which options of commands are called as the fields are."""
        self.told.value = _OPTION.sub(lambda option: option[1].replace("-", " "), text)


def _complete(
    source: Source, outputs: Outputs, where: str, model: str, address: str, token: str
) -> Generator[Step, None, list[LayerData]]:
    """What the thread does: loads the model, or not, and completes."""
    if where == HERE:
        yield Step(f"loading {model}", 0, 0)
    completing: Completing = Here(model) if where == HERE else There(address, token or None)
    layers = yield from complete_layer(source, completing, outputs)
    return layers


def _notes_of(layer: Layer) -> list[str]:
    """What is to be told of a layer."""
    known = known_of(layer)
    sha256 = str(known.get("model_sha256", ""))
    model = [f"model: {known['model']}, {sha256[:12]}".rstrip(", ")] if "model" in known else []
    checks = [check["note"] for check in known.get("self_check", []) if isinstance(check, dict)]
    return list(dict.fromkeys([*model, *known.get("notes", []), *checks]))


def _number(field: Any) -> float | None:
    """The number in a field, None if it is empty.

    Raises:
        ConfigError: It is no number.
    """
    text = field.value.strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(
            expected="a number", found=text, where=field.label, fix="correct it, or leave it empty"
        ) from None

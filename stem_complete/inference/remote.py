"""Scans completed by a service elsewhere, and handed back as what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import RemoteError
from stem_complete.extras import require
from stem_complete.inference.completer import check_side
from stem_complete.inference.labelled import as_raster, like

if TYPE_CHECKING:
    from stem_complete.client import Completion

_TRIES = 2  # as someone waits for the answer


class RemoteCompleter:
    """Completes scans by a completion service, of the types that `Completer` takes.

    Args:
        url: Where the service is.
        token: That its administrator gave, if it wants one.

    Raises:
        MissingPackageError: `requests` is not installed.

    Example:
        >>> completer = RemoteCompleter("http://127.0.0.1:8000")       # doctest: +SKIP
        >>> image, error, about = completer.complete(signal, dwell)    # doctest: +SKIP
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None) -> None:
        require("requests", purpose="a completion service")
        from stem_complete.client import Client

        self._client = Client(url, token, tries=_TRIES)

    def complete(
        self,
        partial: ArrayLike | PathScan | RasterScan,
        dwell: ArrayLike | None = None,
        *,
        error_map: bool = True,
        self_check: bool = True,
        keep_measured: bool = False,
    ) -> Completion:
        """Completion of one partial scan.

        Args:
            partial: As for `Completer.complete`: an array [h, w], a `DataArray`, a `Signal2D`, or a
                scan that has its dwell times. What was measured is told here, not there.
            dwell: As there.
            error_map: Whether to estimate the error, too.
            self_check: Whether to predict held-out parts of the scan, and to leave out of its
                completion what they contradict.
            keep_measured: Whether to blend measured pixels back.

        Returns:
            Image and error of the type of `partial`, and what the service says of them.

        Raises:
            DataError: The scan cannot be completed.
            RemoteError: The service does not answer, or refuses.
        """
        import requests

        from stem_complete.client import ServiceError

        scan = as_raster(partial, dwell)
        check_side(scan)
        options: dict[str, Any] = {
            "error_map": error_map,
            "self_check": self_check,
            "keep_measured": keep_measured,
            "dwell_unit": "full",
            "unmeasured": "nan",
        }
        try:
            found = self._client.complete(scan.intensity.astype(np.float32), scan.dwell, **options)
        except ServiceError as refusal:
            raise RemoteError(
                expected=str(refusal.problem.get("expected", "a completion")),
                found=str(refusal.problem.get("found", f"HTTP status {refusal.status}")),
                where=self._client.url,
                fix=str(refusal.problem.get("fix", "ask its administrator")),
            ) from refusal
        except requests.RequestException as failure:
            raise RemoteError(
                expected="a completion service that answers",
                found=type(failure).__name__,
                where=self._client.url,
                fix="check the address, and that `stem-complete serve` runs there",
            ) from failure
        error = None if found.error is None else like(partial, found.error, "error")
        return found._replace(image=like(partial, found.image), error=error)

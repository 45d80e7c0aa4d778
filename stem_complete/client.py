"""A client of the completion service, in one file that can be copied.

It needs `requests`, and NumPy where arrays go in or come out. It imports nothing of this package.

    client = Client("http://127.0.0.1:8000")
    client.complete_file("scan.tif", "completed.tif")
    completion = client.complete(intensity, dwell)
    with client.live((512, 512), ["intensity"], path="path.csv") as scan:
        scan.send(samples, first=0)

What is asked again after a broken connection or a busy service changes nothing there that was done
before: scans are completed anew, scans of jobs and chunks of live scans are put where they were.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import requests

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

MEDIA_TYPES = {
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".png": "image/png",
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".hspy": "application/x-hdf5",
    ".zip": "application/zip",
    ".json": "application/json",
}
"""Of files, by their suffix."""

FilePath = Union[str, Path]  # noqa: UP007 - for interpreters older than this package's
Option = Union[str, int, float, bool]  # noqa: UP007

_AGAIN = (408, 429, 502, 503, 504)
_LONGEST_PAUSE_S = 30.0
_POLL_S = 0.5


class ServiceError(Exception):
    """What the service answered instead of a result.

    Attributes:
        status: HTTP status.
        problem: The answer (RFC 9457): `expected`, `found`, `fix`, `request_id`.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        super().__init__(f"{status}: {problem.get('detail', 'no reason given')}")


class Completion(NamedTuple):
    """A completed scan.

    Attributes:
        image: [h, w] float32, in the units of the scan.
        error: Expected root mean square error of each pixel, None if it was not asked for.
        about: Model, coverage, self-check, notes.
    """

    image: NDArray[np.float32]
    error: NDArray[np.float32] | None
    about: dict[str, Any]


class Client:
    """A completion service.

    Args:
        url: Where it is.
        token: That its administrator gave, if it wants one.
        timeout_s: Longest silence of the service [s].
        tries: How often a request is made, if the connection breaks or the service is busy.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout_s: float = 300.0,
        tries: int = 5,
    ) -> None:
        self.url, self.timeout_s, self.tries = url.rstrip("/"), timeout_s, tries
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections, which the next request opens again."""
        self.session.close()

    def complete(
        self, intensity: ArrayLike, dwell: ArrayLike | None = None, **options: Option
    ) -> Completion:
        """Completes one scan; needs NumPy.

        Args:
            intensity: Measured intensities [h, w], NaN where not measured.
            dwell: Time spent in each pixel [h, w], as a fraction of a full scan's.
            options: As parameters of `/v1/complete`: error_map, self_check, keep_measured,
                unmeasured, dwell_unit, full_dwell.

        Raises:
            ServiceError: The service did not complete it.
            requests.RequestException: It does not answer.
        """
        import numpy as np

        arrays = {"intensity": np.asarray(intensity)}
        if dwell is not None:
            arrays["dwell"] = np.asarray(dwell)
        body = io.BytesIO()
        np.savez(body, **arrays)  # type: ignore[arg-type]
        headers = {"Content-Type": MEDIA_TYPES[".npz"], "Accept": MEDIA_TYPES[".npz"]}
        answer = self.request(
            "POST", "/v1/complete", params=options, headers=headers, data=body.getvalue()
        )
        return _completion(answer.content)

    def complete_file(
        self,
        scan: FilePath,
        output: FilePath,
        *,
        dwell: FilePath | None = None,
        path: FilePath | None = None,
        **options: Option,
    ) -> dict[str, Any]:
        """Completes the scan of a file into another one, without NumPy.

        Args:
            scan: TIFF, NPY, NPZ, HDF5 or PNG of an image, or CSV, Parquet, NPZ or HDF5 of samples.
            output: What is written: .tif, .npy, .npz, .png, .json, or .zip for OME-Zarr.
            dwell: File of the dwell map.
            path: File of the path of samples.
            options: As for `complete`, and signal, shape="h,w", position_unit, step, origin="x,y".

        Returns:
            What the service says of it: coverage, self-check, notes.
        """
        accept = MEDIA_TYPES[Path(output).suffix.lower()]
        answer = self._send_files(
            "POST", "/v1/complete", scan, dwell, path, params=options, accept=accept
        )
        Path(output).write_bytes(answer.content)
        about: dict[str, Any] = json.loads(answer.headers.get("Stem-Complete-About") or "{}")
        return about or dict(answer.json())

    def model(self) -> dict[str, Any]:
        """The card of the model that the service uses."""
        card: dict[str, Any] = self.request("GET", "/v1/model").json()
        return card

    def job(
        self,
        scans: Iterable[FilePath],
        dwells: Mapping[str, FilePath] | None = None,
        **options: Option,
    ) -> Job:
        """Starts a job of many scans.

        Args:
            scans: Files, of different names.
            dwells: File of the dwell map by a scan's file name.
            options: As for `complete_file`, and format="tiff", "npy" or "ome-zarr", and png.
        """
        job = Job(self, self.request("POST", "/v1/jobs", params=options).json()["id"])
        for scan in map(Path, scans):
            self._send_files(
                "PUT", f"{job.path}/scans/{scan.name}", scan, (dwells or {}).get(scan.name)
            )
        self.request("POST", f"{job.path}/start")
        return job

    def live(
        self,
        shape: Sequence[int],
        columns: Sequence[str] = ("x", "y", "intensity"),
        *,
        path: FilePath | None = None,
        **known: Any,
    ) -> LiveScan:
        """Begins a live scan.

        Args:
            shape: Height and width of the image [px].
            columns: Of the samples: intensity, and x, y [px], dwell [full pixel dwells].
            path: File of the path, if rows have no positions.
            known: pixel_size_nm, intensity_unit, title.
        """
        settings = {"shape": list(shape), "columns": list(columns), **known}
        scan = LiveScan(self, self.request("POST", "/v1/scans", json=settings).json()["id"])
        if path is not None:
            self._send_files("PUT", f"{scan.path}/path", path)
        return scan

    def _send_files(
        self,
        method: str,
        url: str,
        scan: FilePath,
        dwell: FilePath | None = None,
        path: FilePath | None = None,
        *,
        params: Mapping[str, Option] | None = None,
        accept: str = "*/*",
    ) -> requests.Response:
        files = {"scan": scan, "dwell": dwell, "path": path}
        given = {part: Path(file) for part, file in files.items() if file is not None}
        headers = {"Accept": accept}
        if len(given) == 1:
            headers["Content-Type"] = MEDIA_TYPES[given["scan"].suffix.lower()]
            content = given["scan"].read_bytes()
            return self.request(method, url, params=params, headers=headers, data=content)
        with ExitStack() as stack:
            parts = {
                part: (
                    file.name,
                    stack.enter_context(file.open("rb")).read(),
                    MEDIA_TYPES[file.suffix.lower()],
                )
                for part, file in given.items()
            }
        return self.request(method, url, params=params, headers=headers, files=parts)

    def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, **content: Any
    ) -> requests.Response:
        """The answer to a request, which is made again if that may help.

        Raises:
            ServiceError: The service refuses it.
            requests.RequestException: It does not answer.
        """
        lower = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in (params or {}).items()
        }
        for left in reversed(range(self.tries)):
            pause_s = min(_LONGEST_PAUSE_S, 0.5 * 2 ** (self.tries - 1 - left))
            try:
                answer = self.session.request(
                    method, f"{self.url}{path}", params=lower, timeout=self.timeout_s, **content
                )
            except (requests.ConnectionError, requests.Timeout):
                if not left:
                    raise
            else:
                if answer.ok:
                    return answer
                if answer.status_code not in _AGAIN or not left:
                    raise _error(answer)
                told = answer.headers.get("Retry-After", "")
                pause_s = min(_LONGEST_PAUSE_S, float(told)) if told.isdigit() else pause_s
            time.sleep(pause_s)
        raise AssertionError


class _Kept:
    """What the service keeps for a while, under an id."""

    def __init__(self, client: Client, path: str) -> None:
        self.client, self.path = client, path
        self.id = path.rpartition("/")[2]

    def status(self) -> dict[str, Any]:
        """What the service tells of it."""
        told: dict[str, Any] = self.client.request("GET", self.path).json()
        return told

    def delete(self) -> None:
        """Removes it."""
        self.client.request("DELETE", self.path)


class Job(_Kept):
    """A job of many scans, whose status has its state, place, progress, results and failures.

    Args:
        client: Of the service that has it.
        job_id: Its id.
    """

    def __init__(self, client: Client, job_id: str) -> None:
        super().__init__(client, f"/v1/jobs/{job_id}")

    def wait(self, timeout_s: float = 86_400.0) -> dict[str, Any]:
        """The status once it is over.

        Raises:
            TimeoutError: It is not, for so long.
        """
        end_s = time.monotonic() + timeout_s
        while (told := self.status())["state"] in ("open", "queued", "running"):
            if time.monotonic() > end_s:
                raise TimeoutError(f"job {self.id} is {told['state']} after {timeout_s:g} s")
            time.sleep(_POLL_S)
        return told

    def save(self, folder: FilePath) -> list[Path]:
        """Fetches what is completed so far into a folder; an OME-Zarr is a ZIP."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        saved = []
        for name in self.status()["results"]:
            answer = self.client.request("GET", f"{self.path}/results/{name}")
            target = Path(folder, f"{name}.zip" if name.endswith(".zarr") else name)
            target.write_bytes(answer.content)
            saved.append(target)
        return saved

    def cancel(self) -> None:
        """Ends it after the scan that is under way."""
        self.client.request("POST", f"{self.path}/cancel")


class LiveScan(_Kept):
    """A scan whose samples come while it is taken. As a context it is finished at the end.

    Its status has which chunks are there, and which are missing.

    Args:
        client: Of the service that has it.
        scan_id: Its id.
    """

    def __init__(self, client: Client, scan_id: str) -> None:
        super().__init__(client, f"/v1/scans/{scan_id}")
        self.num_chunks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()

    def send(
        self, samples: ArrayLike | bytes, *, first: int | None = None, number: int | None = None
    ) -> int:
        """Sends samples; returns the number of their chunk.

        Args:
            samples: Rows [n, columns], or bytes of them: float32, little endian.
            first: Number of the first of them along the path, if that was sent before.
            number: Of the chunk; None: the next one. The same number with the same samples may be
                sent again, in any order.
        """
        if not isinstance(samples, bytes):
            import numpy as np

            samples = np.ascontiguousarray(samples, "<f4").tobytes()
        if number is None:
            number = self.num_chunks
        self.num_chunks = max(self.num_chunks, number + 1)
        self.client.request(
            "PUT",
            f"{self.path}/chunks/{number}",
            params={} if first is None else {"first": first},
            headers={"Content-Type": "application/octet-stream"},
            data=samples,
        )
        return number

    def preview(self, **options: Option) -> Completion:
        """The completion of what is there so far; needs NumPy."""
        headers = {"Accept": MEDIA_TYPES[".npz"]}
        answer = self.client.request("GET", f"{self.path}/preview", params=options, headers=headers)
        return _completion(answer.content)

    def events(self, **options: Option) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens, as (name, data), until the scan is finished: a `preview` can be fetched."""
        path = f"{self.path}/events"
        with self.client.request("GET", path, params=options, stream=True) as answer:
            name = ""
            for line in answer.iter_lines(chunk_size=1):
                field, _, value = line.decode().partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    def finish(self) -> None:
        """Says that all chunks were sent.

        Raises:
            ServiceError: Some have not come.
        """
        self.client.request("POST", f"{self.path}/finish", json={"chunks": self.num_chunks})


def _completion(content: bytes) -> Completion:
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        error = arrays["error"] if "error" in arrays.files else None
        return Completion(arrays["image"], error, json.loads(arrays["about"].tobytes()))


def _error(answer: requests.Response) -> ServiceError:
    try:
        problem = answer.json()
    except ValueError:  # of a proxy in between
        problem = {"detail": answer.text[:200]}
    return ServiceError(answer.status_code, problem if isinstance(problem, dict) else {})

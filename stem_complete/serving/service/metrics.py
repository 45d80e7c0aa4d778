"""What Prometheus is told at `/metrics`: requests, batches and queues of this process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stem_complete.serving.service.completing import Done

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Figures of one process.

    Completers tell with each answer how large its batch was and how long it waited, so that one
    place has all figures, wherever scans are completed.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "stem_complete_requests",
            "Requests by route and status; 4xx and 5xx are errors.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "stem_complete_request_seconds",
            "Time from a request's first byte to its answer's last one.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "stem_complete_batch_size",
            "Scans that were completed together.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._waited = Histogram(
            "stem_complete_queue_seconds",
            "Time that a scan waited for others.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._pixels = Counter(
            "stem_complete_pixels", "Pixels of completed scans.", registry=self.registry
        )
        self.waiting = Gauge(
            "stem_complete_queue_length",
            "Scans that wait for completion, or are being completed.",
            registry=self.registry,
        )
        self.jobs = Gauge("stem_complete_jobs", "Jobs by state.", ["state"], registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request. Methods are any word that a client sends, and labels stay for ever."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def completed(self, done: Done) -> None:
        """Counts a completion."""
        self._batch.observe(done.batch_size)
        self._waited.observe(done.waited_s)
        height, width = done.completed.scan.shape
        self._pixels.inc(height * width)

    def text(self) -> bytes:
        """All figures in Prometheus' format."""
        found: bytes = generate_latest(self.registry)
        return found

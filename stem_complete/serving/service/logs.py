"""The service's log: a line of JSON for each entry, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

LOG = "stem_complete.service"
"""The logger of all of the service."""


class JsonLines(logging.Formatter):
    """Log entries as lines of JSON; `extra={"fields": ...}` adds to them."""

    def format(self, record: logging.LogRecord) -> str:
        """One entry."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_as_json() -> None:
    """Has this process write its entries; of uvicorn's only warnings, as requests are ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in ((LOG, logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

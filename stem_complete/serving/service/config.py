"""What whoever runs the service decides; also the arguments of `serve deploy`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stem_complete.serving.service.access import TOKEN_HASHES, check_hashes
from stem_complete.serving.service.limits import Limits

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 8
"""Of scans of 512 x 512 px; larger ones fill the cores by themselves, and change little."""


class ServiceConfig(BaseModel):
    """The service.

    Attributes:
        model: As for `load_completer`; None: the released model.
        device: "cpu" or "cuda".
        precision: As of `Completer`.
        batch_size: Largest number of scans that are completed together; None: 8 on a GPU, else 4.
        replicas: Completers at least.
        most_replicas: Completers at most, of which there are as many as requests need.
        cpus_per_replica: Cores of each, on a CPU; Ray gives it as many threads, unless
            OMP_NUM_THREADS says otherwise.
        poll_model_s: How often MLflow is asked where an alias leads [s].
        stuck_s: Time of a batch after which its completer is taken for dead [s].
        storage: Folder of jobs and live scans, which all nodes see.
        limits: What is taken.
        insecure: Whether it answers others without tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: str | None = None
    device: str = "cpu"
    precision: str = "float32"
    batch_size: int | None = Field(None, ge=1, le=256)
    replicas: int = Field(1, ge=1)
    most_replicas: int | None = None
    cpus_per_replica: float = Field(1.0, ge=0)
    poll_model_s: float = Field(30.0, gt=0)
    stuck_s: float = Field(600.0, gt=0)
    storage: Path = Field(default_factory=lambda: storage_folder())
    limits: Limits = Field(default_factory=Limits)
    insecure: bool = False

    @model_validator(mode="after")
    def _check(self) -> ServiceConfig:
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError(f"most_replicas must be at least {self.replicas}")
        return self

    @property
    def use_gpu(self) -> bool:
        """Whether each completer has a GPU."""
        return self.device.startswith("cuda")

    @property
    def together(self) -> int:
        """Largest number of scans that are completed together."""
        return self.batch_size or (GPU_BATCH_SIZE if self.use_gpu else CPU_BATCH_SIZE)

    @property
    def ongoing(self) -> int:
        """Requests that a completer has at once: a batch at work, and the next one.

        Fewer than a batch, and batches would never fill.
        """
        return 2 * self.together


def storage_folder() -> Path:
    """`stem-complete/service` in XDG_STATE_HOME, or else in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "stem-complete" / "service"


def token_hashes() -> tuple[str, ...]:
    """Of the tokens that are let in, as the environment says.

    Raises:
        ConfigError: One is something else.
    """
    return check_hashes(os.environ.get(TOKEN_HASHES, "").split())

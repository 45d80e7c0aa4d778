"""Batches of partial scans: from one file to millions, each completed exactly once.

`sources` finds scans, `reading` reads them, `worker` completes units of them, `files` and `shards`
write them. `run` says what is to be done and keeps the `manifest` of what is. `in_process` and
`on_ray` are two ways to have workers, which take units from the same `work_queue`; only the latter
imports Ray.
"""

from stem_complete.serving.batch.run import CompleteReport, complete_files

__all__ = ["CompleteReport", "complete_files"]

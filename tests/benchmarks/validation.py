"""Validation of small images, many at once beside one by one."""

from collections.abc import Iterator

from stem_complete.benchmark import durations
from stem_complete.config import load_config
from stem_complete.data.cifar10 import Cifar10
from stem_complete.distributed import WorkerContext
from stem_complete.training import Task, build_named
from stem_complete.training.validation import validate

from . import Setting
from .report import Comparison, Goal
from .steps import Step, write_cifar10

IMAGES, QUICK_IMAGES = 640, 8


def run(setting: Setting) -> Iterator[Comparison]:
    """Images per second of ResNet-18, of the full width and of a quarter."""
    number = QUICK_IMAGES if setting.quick else IMAGES
    write_cifar10(setting.folder, number)
    for files in (["classification"], ["classification", "stability_small"]):
        changes = ["name=benchmark", "sweep=null", f"data.store={setting.folder}"]
        task, examples = build_named(load_config(files, changes))
        task.to(setting.device)
        at_once = task.validation_batch
        sizes = {"at once": at_once, "one by one": 1}
        cases = {
            name: validation(task, examples, size, number, WorkerContext(device=setting.device))
            for name, size in sizes.items()
        }
        seconds = durations(cases, setting.rounds)
        rates = {name: [number / value for value in of] for name, of in seconds.items()}
        yield Comparison(
            f"{' '.join(files)}, {at_once} at once",
            "images/s",
            rates["at once"],
            "one by one",
            rates["one by one"],
            Goal(">=", 1.0),
        )


def validation(
    task: Task, examples: Cifar10, size: int, number: int, context: WorkerContext
) -> Step:
    """Validates so many images, `size` at once."""

    def step() -> None:
        task.validation_batch = size
        validate(task, examples, context, num_examples=number, num_pictures=0)

    return step

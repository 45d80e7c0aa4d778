"""Validation in batches comes to the same as one example at a time."""

import numpy as np
import pytest

from stem_complete.distributed import WorkerContext
from stem_complete.training import Validated
from stem_complete.training.validation import validate
from tests.tiny_task import SQUARED, Regression, Vectors


class Pictured(Regression):
    """Each picture is of the first example alone."""

    def validate(self, examples, positions):
        self.seen.append(positions.tolist())
        picture = np.full((2, 2), positions[0], np.uint8)
        return Validated(super().validate(examples, positions).metrics, picture)


@pytest.fixture
def task():
    found = Pictured(SQUARED)
    found.seen = []
    return found


def validated(task, size, *, num_examples=8, num_pictures=2):
    task.validation_batch = size
    return validate(
        task, Vectors(), WorkerContext(), num_examples=num_examples, num_pictures=num_pictures
    )


@pytest.mark.parametrize("size", [2, 5, 64])
@pytest.mark.parametrize("num_pictures", [0, 2, 9])
def test_means_and_pictures_are_those_of_single_examples(task, size, num_pictures):
    expected = validated(task, 1, num_pictures=num_pictures)
    found = validated(task, size, num_pictures=num_pictures)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert list(found.pictures) == list(expected.pictures)
    assert len(found.pictures) == min(num_pictures, 8)
    for position, picture in enumerate(found.pictures.values()):
        assert (picture == position).all()


def test_examples_with_a_picture_are_alone(task):
    validated(task, 4)
    assert task.seen == [[0], [1], [2, 3, 4, 5], [6, 7]]


def test_no_more_than_asked_for_are_validated(task):
    validated(task, 4, num_examples=3, num_pictures=0)
    assert task.seen == [[0, 1, 2]]

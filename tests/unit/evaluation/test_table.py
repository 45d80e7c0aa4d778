"""Markdown tables."""

import pytest

from stem_complete.evaluation import markdown_table


def test_columns_line_up_and_pipes_are_escaped():
    table = markdown_table(["method", "a | b"], [["linear", "4.00"], ["network", "0.02"]])
    assert table.splitlines() == [
        "| method  | a \\| b |",
        "| ------- | -----: |",
        "| linear  |   4.00 |",
        "| network |   0.02 |",
    ]


def test_rows_must_be_of_one_length():
    with pytest.raises(ValueError, match="zip"):
        markdown_table(["a", "b"], [["1"]])

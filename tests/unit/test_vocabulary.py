"""Words that configs, files and the mathematics share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.vocabulary import format_coverage, parse_coverage


@given(
    numerator=st.integers(1, 1000),
    denominator=st.integers(1, 1000),
    form=st.sampled_from(["{n}/{d}", " {n}/{d} ", "{v}", "float"]),
)
def test_coverage_reads_fractions_and_numbers(numerator: int, denominator: int, form: str) -> None:
    value = numerator / denominator
    given_as = value if form == "float" else form.format(n=numerator, d=denominator, v=value)
    if value > 1:
        with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\]"):
            parse_coverage(given_as)
    else:
        assert parse_coverage(given_as) == pytest.approx(value)


@given(pitch=st.floats(1, 999))
def test_a_formatted_coverage_reads_back_to_three_digits(pitch: float) -> None:
    assert parse_coverage(format_coverage(1 / pitch)) == pytest.approx(1 / pitch, rel=6e-3)


def test_coverage_is_written_as_a_fraction() -> None:
    assert format_coverage(1 / 20) == "1/20"
    assert format_coverage(0.0558) == "1/17.9"

"""The benchmark of the user's machine: three rates, measured in turn."""

from stem_complete.benchmark import Rate, as_text, durations


def test_cases_take_turns_and_the_warm_up_does_not_count():
    calls = []
    seconds = durations(
        {name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, calls=2
    )
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = [calls[start : start + 6] for start in range(0, len(calls), 6)]
    assert len(rounds) == 4
    assert all(sorted(taken) == list("aabbcc") for taken in rounds)


def test_the_text_has_medians_with_quartiles_and_the_machine():
    lines = as_text([Rate("x", "images/s", [1.0, 2.0, 3.0])]).splitlines()
    assert lines[0].split() == ["x", "2", "(1.5", "to", "2.5)", "images/s"]
    assert any(line.startswith("torch ") for line in lines)

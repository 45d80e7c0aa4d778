"""Tokens, ids and rates."""

import re

import pytest

from stem_complete.errors import ConfigError
from stem_complete.serving.service.access import (
    Rate,
    check_hashes,
    hashed,
    is_id,
    is_known,
    new_id,
    new_token,
)


def test_a_token_is_known_by_its_hash_which_does_not_hold_it():
    token, its_hash = new_token()
    assert token not in its_hash
    assert is_known(token, [its_hash])
    assert is_known(token, [new_token()[1], its_hash])
    assert not is_known(token, [new_token()[1]])
    assert not is_known(token[:-1], [its_hash])
    assert not is_known("", [its_hash])


def test_the_same_token_has_another_hash_with_another_salt():
    assert hashed("token", b"a" * 16) != hashed("token", b"b" * 16)


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(1) or a == b)
    token, its_hash = new_token()
    assert is_known(token, [its_hash, new_token()[1], new_token()[1]])
    assert len(compared) == 3  # all of them, wherever the right one is


@pytest.mark.parametrize("text", ["secret", "sha256:abc:def", "sha256::", "md5:" + "0" * 97])
def test_a_token_in_clear_is_refused_where_hashes_belong(text):
    with pytest.raises(ConfigError, match="--new-token") as refused:
        check_hashes([text])
    assert text not in str(refused.value) or text == "sha256::"


def test_ids_cannot_be_guessed_and_nothing_else_is_one():
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_id(each) for each in ids)
    for other in ("", ".", "..", "../" + new_id(), new_id() + "\n", new_id()[1:], "A" * 32):
        assert not is_id(other)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_a_client_may_burst_and_then_gets_its_rate():
    now = 0.0
    rate = Rate(2.0, 3, lambda: now)
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, 0]
    assert rate.wait_s("a") == pytest.approx(0.5)
    assert rate.wait_s("b") == 0  # another one
    now = 0.25
    assert rate.wait_s("a") == pytest.approx(0.25)
    now = 0.5
    assert rate.wait_s("a") == 0
    now = 100.0
    assert [rate.wait_s("a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]


def test_clients_that_never_come_back_are_forgotten():
    rate = Rate(1.0, 1, lambda: 0.0)
    for number in range(20_000):
        rate.wait_s(str(number))
    assert len(rate._buckets) <= 10_000

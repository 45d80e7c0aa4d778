"""Configs of earlier versions still open."""

import logging

import pytest

from stem_complete.config import upgrade as module
from stem_complete.config.upgrade import upgrade


@pytest.fixture
def _rules(monkeypatch):
    monkeypatch.setattr(module, "_MOVED", {"scan.zoom": module._Move("augmentation.zoom", float)})
    monkeypatch.setattr(module, "_REMOVED", {"data.old": 0})


@pytest.mark.usefixtures("_rules")
def test_moved_keys_have_their_new_place():
    before = {"scan": {"zoom": 2, "coverage": 0.1}, "name": "a"}
    after = {"scan": {"coverage": 0.1}, "augmentation": {"zoom": 2.0}, "name": "a"}
    assert upgrade(before) == after
    assert upgrade(after) == after
    assert before["scan"] == {"zoom": 2, "coverage": 0.1}


@pytest.mark.usefixtures("_rules")
def test_removed_keys_are_left_out_and_told_if_they_did_something(caplog):
    with caplog.at_level(logging.WARNING):
        assert upgrade({"data": {"old": 0, "store": "s"}}) == {"data": {"store": "s"}}
        assert not caplog.records
        assert upgrade({"data": {"old": 0.5}}) == {"data": {}}
    assert "data.old = 0.5" in caplog.text


@pytest.mark.usefixtures("_rules")
@pytest.mark.parametrize("values", [{}, {"scan": None}, {"scan": 3}, {"data": []}])
def test_what_is_no_config_stays_as_it_is(values):
    assert upgrade(values) == values


def test_synthetic_micrographs_are_a_removed_key(caplog):
    with caplog.at_level(logging.WARNING):
        assert upgrade({"data": {"store": "s", "synthetic": 0.0}}) == {"data": {"store": "s"}}
        assert not caplog.records
        upgrade({"data": {"synthetic": 0.3}})
    assert "data.synthetic = 0.3" in caplog.text

"""The mailbox, without the actor that it lives in."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from stem_complete.launch import mailbox as mailbox_module
from stem_complete.launch.mailbox import (
    Mailbox,
    MailboxHandler,
    MailboxRecorder,
    poll_in_background,
)
from stem_complete.launch.messages import Metrics
from stem_complete.training import StopRequest


class Handle:
    """As Ray's handle of an actor: `handle.method.remote(...)` calls a method."""

    def __init__(self, actor: Mailbox) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> object:
        class Method:
            remote = staticmethod(getattr(self._actor, name))

        return Method


@pytest.fixture
def mailbox(clock) -> Mailbox:
    return Mailbox(clock)


def test_messages_are_taken_once_and_in_order(mailbox):
    mailbox.put("one")
    mailbox.put("two")
    assert mailbox.take()[0] == ["one", "two"]
    assert mailbox.take()[0] == []


def test_workers_are_silent_since_they_last_polled(mailbox, clock):
    clock.turn(3)
    assert mailbox.take()[1] == 3
    mailbox.poll()
    clock.turn(2)
    mailbox.put("not a sign of life: it may have been on its way")
    assert mailbox.take()[1] == 2


def test_a_wish_to_stop_is_there_until_it_is_taken_back(mailbox):
    assert mailbox.poll() is None
    mailbox.ask_to_stop("room")
    assert [mailbox.poll(), mailbox.poll()] == ["room", "room"]
    mailbox.ask_to_stop(None)
    assert mailbox.poll() is None


def test_the_recorder_sends_metrics_and_no_pictures(mailbox):
    recorder = MailboxRecorder(Handle(mailbox))
    recorder.scalars(3, {"train/loss": 1.5})
    recorder.picture(3, "validation", np.zeros((2, 2), np.uint8))
    recorder.close()
    assert mailbox.take()[0] == [Metrics(3, {"train/loss": 1.5})]


def test_warnings_are_sent_with_their_rank_and_what_is_less_is_not(mailbox):
    logger = logging.Logger("worker")
    logger.addHandler(MailboxHandler(Handle(mailbox), rank=2))
    logger.info("fine")
    logger.warning("crop %d is odd", 7)
    assert mailbox.take()[0] == ["worker 2: warning: crop 7 is odd"]


def test_the_first_worker_passes_the_drivers_wish_on_to_its_run(mailbox, monkeypatch):
    polls = []

    def answer(reply: object) -> object:
        """As `ray.get`; the first time the actor is restarting."""
        polls.append(reply)
        if len(polls) == 1:
            raise mailbox_module.ray.exceptions.RayError
        if len(polls) == 3:
            mailbox.ask_to_stop("Ctrl-C")
        return reply

    threads = []
    monkeypatch.setattr(mailbox_module.ray, "get", answer)
    monkeypatch.setattr(mailbox_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(mailbox_module.threading, "Thread", _immediate(threads))
    stop = StopRequest()
    poll_in_background(Handle(mailbox), stop)
    assert stop.reason == "Ctrl-C"
    assert polls == [None, None, None, "Ctrl-C"]
    assert threads == [True], "the thread may not keep the process alive"


def _immediate(threads: list[bool]) -> type:
    """A thread that runs at once, on the caller's."""

    class Immediate:
        def __init__(self, target, name, daemon):
            self.target = target
            threads.append(daemon)

        def start(self):
            self.target()

    return Immediate

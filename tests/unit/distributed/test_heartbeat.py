"""The rank that blocks the others is named first."""

import time

from stem_complete.distributed.heartbeat import Heartbeat, describe


def heartbeat(step=1, phase="data", quiet_s=0.0, *, host="a", end="", ago_s=0.0) -> Heartbeat:
    sent_s = time.time() - ago_s
    return Heartbeat(host, sent_s, step, phase, quiet_s, end, silent=ago_s > 0)


def test_the_likeliest_cause_comes_first():
    heartbeats = {
        0: heartbeat(41, "reduce", 299),
        1: heartbeat(40, "reduce", 2),
        2: heartbeat(41, "reduce", 302),
        3: heartbeat(40, "data", host="c", ago_s=20),
        4: heartbeat(40, "backward", host="b", ago_s=310),
    }
    assert describe(heartbeats) == (
        "rank 4 on b: step 40 (backward), last heartbeat 310 s ago; "
        "rank 3 on c: step 40 (data), last heartbeat 20 s ago; "
        "rank 1 on a: step 40 (reduce), 2 s; "
        "rank 2 on a: step 41 (reduce), 302 s; "
        "rank 0 on a: step 41 (reduce), 299 s"
    )
    heartbeats[5] = heartbeat(42, end="ended by DataError: no store", host="d")
    first, rest = describe(heartbeats, num_shown=1).split("; ")
    assert first == "rank 5 on d: step 42 (data), ended by DataError: no store"
    assert rest == "and 5 more"
    assert describe({}) == ""

"""When a run on a cluster grows; the clock is turned by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.config.schema import ScalingConfig
from stem_complete.launch.policy import (
    ROOM_LASTS_S,
    ClusterPolicy,
    have_places,
    resources_per_worker,
)

ROOM = {"CPU": 1.0}


def elastic(clock, **changes) -> ClusterPolicy:
    scaling = {"num_workers": 4, "min_workers": 1, "resize_every_s": 60.0} | changes
    return ClusterPolicy(ScalingConfig(**scaling), clock)


def training(clock, num_workers=2, **changes) -> ClusterPolicy:
    """Policy of an elastic run of which some workers train, when it is time to look for room."""
    policy = elastic(clock, **changes)
    policy.group_starts()
    policy.group_trains(num_workers)
    clock.turn(policy.look_every_s)
    return policy


def never_asked():
    pytest.fail("the cluster was asked for its free resources")


class TestRoomForMore:
    def test_is_used_once_it_has_lasted(self, clock):
        policy = training(clock)
        assert not policy.has_room_for_more(lambda: ROOM)
        clock.turn(ROOM_LASTS_S)
        assert not policy.has_room_for_more(lambda: ROOM)
        clock.turn(0.5)
        assert policy.has_room_for_more(lambda: ROOM)

    def test_that_went_in_between_starts_anew(self, clock):
        policy = training(clock)
        policy.has_room_for_more(lambda: ROOM)
        clock.turn(ROOM_LASTS_S - 1)
        assert not policy.has_room_for_more(dict)
        clock.turn(policy.look_every_s)
        assert not policy.has_room_for_more(lambda: ROOM)
        clock.turn(ROOM_LASTS_S + 1)
        assert policy.has_room_for_more(lambda: ROOM)

    def test_that_may_be_of_lost_workers_starts_anew(self, clock):
        policy = training(clock)
        policy.has_room_for_more(lambda: ROOM)
        clock.turn(ROOM_LASTS_S + 1)
        policy.forget_room()
        assert not policy.has_room_for_more(lambda: ROOM)

    def test_is_not_looked_for_more_often_than_configured(self, clock):
        policy = training(clock)
        assert not policy.has_room_for_more(dict)
        clock.turn(policy.look_every_s - 1)
        assert not policy.has_room_for_more(never_asked)

    @pytest.mark.parametrize(
        ("num_workers", "changes"),
        [(4, {}), (2, {"min_workers": None})],
        ids=["complete", "not elastic"],
    )
    def test_is_not_looked_for_by_who_cannot_use_it(self, clock, num_workers, changes):
        policy = training(clock, num_workers, **changes)
        assert not policy.has_room_for_more(never_asked)

    def test_is_not_looked_for_before_a_group_trains(self, clock):
        policy = elastic(clock)
        policy.group_starts()
        clock.turn(1e6)
        assert not policy.has_room_for_more(never_asked)

    @pytest.mark.parametrize(
        ("free", "suffices"),
        [
            ({"CPU": 2.0, "GPU": 1.0}, True),
            ({"CPU": 1.5, "GPU": 4.0}, False),
            ({"CPU": 8.0}, False),
        ],
    )
    def test_is_room_for_all_that_a_worker_takes(self, clock, free, suffices):
        policy = training(clock, cpus_per_worker=2, use_gpu=True)
        policy.has_room_for_more(lambda: free)
        clock.turn(ROOM_LASTS_S + 1)
        assert policy.has_room_for_more(lambda: free) == suffices


class TestPauseBetweenLooks:
    def test_doubles_each_time_that_a_stop_brought_no_workers(self, clock):
        policy = training(clock, 2)
        for expected in (120.0, 240.0, 480.0):
            policy.group_starts()
            policy.group_trains(2)
            assert policy.look_every_s == expected

    def test_is_as_configured_again_once_the_run_has_grown(self, clock):
        policy = training(clock, 2)
        policy.group_trains(2)
        policy.group_trains(3)
        assert policy.look_every_s == 60.0

    @given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12))
    def test_is_never_less_than_configured(self, sizes):
        policy = elastic(lambda: 0.0, num_workers=8)
        for size in sizes:
            policy.group_trains(size)
            assert policy.look_every_s >= 60.0
        assert policy.num_workers == sizes[-1]


def test_resources_of_a_worker_are_named_as_ray_names_them():
    assert resources_per_worker(ScalingConfig(cpus_per_worker=3)) == {"CPU": 3.0}
    assert resources_per_worker(ScalingConfig(use_gpu=True)) == {"CPU": 1.0, "GPU": 1.0}


class TestPlacesOfSeveralRuns:
    @pytest.mark.parametrize(
        ("nodes", "num_runs"),
        [
            ([4], 2),
            ([2, 2], 2),
            ([3, 3], 2),
            ([1, 1, 1, 1], 0),  # room enough, and none for a worker
            ([5, 3, 1], 3),
            ([], 0),
        ],
    )
    def test_are_on_nodes_that_hold_a_worker_each(self, nodes, num_runs):
        run = ScalingConfig(cpus_per_worker=2)
        nodes = [{"CPU": float(number), "memory": 1e9} for number in nodes]
        assert have_places([run] * num_runs, nodes)
        assert not have_places([run] * (num_runs + 1), nodes)

    def test_may_be_on_several_nodes(self):
        runs = [ScalingConfig(num_workers=2), ScalingConfig(num_workers=1)]
        assert have_places(runs, [{"CPU": 1.0}, {"CPU": 2.0}])
        assert not have_places([*runs, ScalingConfig()], [{"CPU": 1.0}, {"CPU": 2.0}])

    def test_have_gpus_where_workers_need_them(self):
        run = ScalingConfig(use_gpu=True)
        nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 2.0}]
        assert have_places([run, ScalingConfig(cpus_per_worker=8)], nodes)
        assert not have_places([run, run], nodes)

"""As many threads as cores that a worker has."""

from __future__ import annotations

import os

import pytest
import torch

from stem_complete.distributed import cores, num_cores, set_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of so many cores, in control groups with limits, by their files' content."""

    def make(number: int, limits: dict[str, str], groups: str = "0::/pod/container\n") -> None:
        for name, text in limits.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "groups").write_text(groups)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)), raising=False)
        monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "groups")

    return make


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 64),
        ({"pod/container/cpu.max": "max 100000"}, 64),
        ({"pod/container/cpu.max": "200000 100000"}, 2),
        ({"pod/cpu.max": "350000 100000", "pod/container/cpu.max": "max 100000"}, 4),
        ({"cpu.max": "50000 100000"}, 1),
        ({"pod/container/cpu.max": "nonsense"}, 64),
    ],
)
def test_cores_are_those_that_the_container_may_use(machine, limits, expected):
    machine(64, limits)
    assert num_cores() == expected


def test_limits_of_version_1_hold_too(machine):
    limits = {"cpu/docker/cpu.cfs_quota_us": "300000", "cpu/docker/cpu.cfs_period_us": "100000"}
    machine(64, limits, groups="4:cpu,cpuacct:/docker\n1:name=systemd:/docker\n")
    assert num_cores() == 3


class TestThreads:
    @pytest.fixture(autouse=True)
    def found(self, machine, monkeypatch):
        machine(8, {})
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        found: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", found.append)
        return found

    def test_are_shared_by_the_workers_of_a_host(self, found):
        for num_workers in (1, 2, 3, 20):
            set_threads(num_workers)
        set_threads(20, at_least=2)
        assert found == [8, 4, 2, 1, 2]

    def test_are_the_users_choice_first(self, found, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        set_threads(1)
        assert found == []

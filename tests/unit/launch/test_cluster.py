"""What is wrong with a cluster, or with this machine, is told in one line before Ray is asked."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import ray

from stem_complete.errors import ConfigError, TrainingError
from stem_complete.launch import cluster
from stem_complete.launch.cluster import check_address, ray_cluster, short_folder
from stem_complete.launch.ray_group import train_on_ray
from stem_complete.training import StopRequest, TrainingResult, stop_on_signals


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Ray that must not be started, and an environment without its settings."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def init(**_):
        raise AssertionError("Ray was asked")

    monkeypatch.setattr(ray, "init", init)


@pytest.fixture
def scaling(make_config):
    return make_config().scaling


class TestAddresses:
    @pytest.mark.parametrize("address", ["http://head:8265", "https://head:8265"])
    def test_of_jobs_are_for_submitting(self, address):
        expected = rf"RAY_ADDRESS={address}: .*ray job submit --address {address} -- "
        with pytest.raises(ConfigError, match=expected):
            check_address(address)

    @pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", ":6379"])
    def test_of_other_kinds_are_refused(self, address):
        with pytest.raises(ConfigError, match=r"expected HOST:PORT.*set it to HOST:6379"):
            check_address(address)

    @pytest.mark.parametrize(
        ("error", "found"),
        [
            (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
            (TimeoutError("timed out"), "no answer"),
            (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        ],
    )
    def test_where_nothing_listens_are_told(self, monkeypatch, error, found):
        def connect(address, timeout):
            assert (address, timeout) == (("head", 6379), cluster.CONNECT_S)
            raise error

        monkeypatch.setattr(socket, "create_connection", connect)
        expected = rf"RAY_ADDRESS=head:6379: expected a Ray cluster, found {found}; .*--head"
        with pytest.raises(TrainingError, match=expected):
            check_address("head:6379")

    def test_of_the_last_cluster_here_are_tried_first(self, monkeypatch):
        meant = iter(["10.0.0.1:6379", "10.0.0.1:6379", ConnectionError("Could not find any")])

        def find(address):
            assert address == "auto"
            found = next(meant)
            if isinstance(found, ConnectionError):
                raise found
            return found

        def connect(address, timeout):
            assert address == ("10.0.0.1", 6379)
            raise ConnectionRefusedError("Connection refused")

        monkeypatch.setattr(cluster.services, "canonicalize_bootstrap_address", find)
        monkeypatch.setattr(socket, "create_connection", lambda *_: socket.socket())
        check_address("auto")
        monkeypatch.setattr(socket, "create_connection", connect)
        expected = r"RAY_ADDRESS=auto: .* nothing at 10.0.0.1:6379, where the last one was: Conn"
        with pytest.raises(TrainingError, match=expected):
            check_address("auto")
        with pytest.raises(TrainingError, match="found none on this machine"):
            check_address("auto")

    def test_are_checked_before_ray_is_asked(self, scaling, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
        with pytest.raises(ConfigError), ray_cluster(scaling):
            pass


class TestErrorsOfRay:
    MISMATCH = """Version mismatch: The cluster was started with:
        Ray: 2.50.1
        Python: 3.12.1
    This process on 10.0.0.1 was started with:
        Ray: 2.60.0
        Python: 3.11.7
    """

    def start(self, scaling, monkeypatch, error, address="local"):
        def init(**_):
            raise error

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(cluster, "check_address", lambda _: None)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(TrainingError) as raised, ray_cluster(scaling):
            pass
        assert len(str(raised.value).splitlines()) == 1
        return str(raised.value)

    def test_other_versions(self, scaling, monkeypatch):
        failed = ConnectionError("Failed to connect to Ray cluster at head:6379")
        failed.__cause__ = RuntimeError(self.MISMATCH)
        line = self.start(scaling, monkeypatch, failed, "head:6379")
        assert "expected the versions of this process (Ray 2.60.0, Python 3.11.7)" in line
        assert "found Ray 2.50.1, Python 3.12.1; " in line
        assert "install ray==2.50.1" in line

    def test_another_token(self, scaling, monkeypatch):
        error = ray.exceptions.AuthenticationError("no token")
        assert "copy ~/.ray/auth_token" in self.start(scaling, monkeypatch, error, "head:6379")

    def test_no_cluster_on_this_machine(self, scaling, monkeypatch):
        error = ConnectionError("Could not find any running Ray instance. Please specify")
        line = self.start(scaling, monkeypatch, error, "auto")
        assert "found none on this machine; start one by" in line

    def test_a_cluster_that_cannot_be_started(self, scaling, monkeypatch):
        line = self.start(scaling, monkeypatch, RuntimeError("no GCS\n\nlast 0 lines"))
        assert line.startswith("Ray: expected a local Ray cluster, found no GCS last 0 lines; see")

    def test_one_that_takes_too_long(self, scaling, monkeypatch):
        def init(**_):
            while True:
                try:
                    time.sleep(60)
                except Exception:  # as Ray tries again and again
                    continue

        monkeypatch.setattr(cluster, "JOIN_S", 0.1)
        monkeypatch.setattr(cluster, "check_address", lambda _: None)
        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        with pytest.raises(TrainingError, match="found none within"), ray_cluster(scaling):
            pass


class TestWorkingFolder:
    def test_that_is_removed_while_ray_starts_is_left(self, scaling, monkeypatch, tmp_path):
        folders, here = [], tmp_path / "here"

        def init(**_):
            if here.exists():
                here.rmdir()
            folders.append(Path.cwd())

        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setattr(ray, "init", init)
        with ray_cluster(scaling):
            assert folders == [Path("/")]

    def test_that_is_there_is_no_reason_to_start_twice(self, scaling, monkeypatch):
        calls = []

        def init(**_):
            calls.append(1)
            raise FileNotFoundError("gcs_server")

        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(TrainingError, match="found gcs_server"), ray_cluster(scaling):
            pass
        assert calls == [1]


class TestSignals:
    def test_to_this_group_do_not_reach_the_processes_of_a_local_cluster(
        self, scaling, monkeypatch
    ):
        started = []
        monkeypatch.setattr(cluster.services, "ConsolePopen", lambda *_, **how: started.append(how))
        monkeypatch.setattr(cluster.ray_utils, "detect_fate_sharing_support", lambda: True)
        before = cluster.services.ConsolePopen
        monkeypatch.setattr(ray, "init", lambda **_: cluster.services.ConsolePopen(["gcs"]))
        with ray_cluster(scaling):
            assert started == [{"process_group": 0}]
        assert cluster.services.ConsolePopen is before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_leave_ray_little_time_to_start(self, scaling, monkeypatch, number):
        def init(**_):
            os.kill(os.getpid(), number)
            while True:
                time.sleep(0.001)

        monkeypatch.setattr(cluster, "STOP_S", 0.05)
        monkeypatch.setattr(ray, "init", init)
        with stop_on_signals() as stop:
            handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
            message = "a local Ray cluster, found none within .* has less to do"
            with pytest.raises(TrainingError, match=message), ray_cluster(scaling):
                pass
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
        assert stop.signal == number

    @pytest.mark.parametrize("asked", [True, False])
    def test_are_why_ray_did_not_start(self, make_config, monkeypatch, asked):
        stop = StopRequest()

        def init(**_):
            if asked:
                stop.on_signal(signal.SIGTERM, None)
            raise RuntimeError("the GCS has ended")

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(cluster, "_SETTINGS", {})
        if asked:
            assert train_on_ray(make_config(), None, stop) == TrainingResult(0, {}, False)
        else:
            with pytest.raises(TrainingError, match="the GCS has ended"):
                train_on_ray(make_config(), None, stop)


class TestFolders:
    def test_are_rays_own_where_they_can_be_used(self, tmp_path, monkeypatch):
        assert short_folder() is None or not os.access("/tmp/ray", os.W_OK)

    def test_are_short_where_the_temporary_one_is_too_long_for_sockets(self, tmp_path, monkeypatch):
        long = tmp_path / ("x" * 60)
        long.mkdir()
        monkeypatch.setenv("TMPDIR", str(long))
        folder = short_folder()
        assert folder is not None
        assert len(str(folder)) <= 37

    def test_that_cannot_be_had_are_told(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
        monkeypatch.setattr(cluster, "_may_write", lambda _: False)
        with pytest.raises(ConfigError, match=r"at most 37 characters.*set RAY_TMPDIR"):
            short_folder()


class TestTokens:
    def test_are_kept_in_memory_where_there_is_none(self, scaling, monkeypatch, tmp_path):
        started = []
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(ray, "init", lambda **arguments: started.append(arguments))
        with ray_cluster(scaling):
            assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert started[0]["address"] == "local"
        assert list(tmp_path.iterdir()) == []

    def test_are_the_users_where_there_is_one(self, scaling, monkeypatch, tmp_path):
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("token")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(ray, "init", lambda **_: None)
        with ray_cluster(scaling):
            assert "RAY_AUTH_TOKEN" not in os.environ

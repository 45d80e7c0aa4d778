"""Ray's own checks of the cluster-launcher files, and the watcher of spot notices."""

import importlib.util
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import drain_node

FOLDER = Path(__file__).parents[3] / "cluster"
WATCHER = FOLDER / "drain_on_spot_notice.py"
NOTICE = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}


@pytest.fixture(params=["cloud", "on_premises"])
def launcher(request):
    return yaml.safe_load((FOLDER / f"{request.param}.yaml").read_text())


def test_ray_would_take_it(launcher):
    validate_config(prepare_config(launcher))


def test_all_nodes_authenticate_with_one_token(launcher):
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for start in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]


def test_a_stopped_job_has_time_for_its_checkpoint(launcher):
    assert "RAY_JOB_STOP_WAIT_TIME_S=120" in launcher["head_start_ray_commands"][-1]


def test_cloud_workers_are_spot_and_the_head_is_not():
    types = yaml.safe_load((FOLDER / "cloud.yaml").read_text())["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_on_premises_starts_all_hosts():
    config = yaml.safe_load((FOLDER / "on_premises.yaml").read_text())
    hosts = config["provider"]["worker_ips"]
    assert config["min_workers"] == config["max_workers"] == len(hosts)


@pytest.fixture
def metadata():
    """AWS's metadata service: no notice at first, then one; needs a token."""

    class Service(BaseHTTPRequestHandler):
        has_notice = False

        def do_PUT(self):
            self.answer(200, "token" if self.path == "/api/token" else "")

        def do_GET(self):
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                self.answer(401, "")
            elif self.path == "/meta-data/spot/instance-action" and Service.has_notice:
                self.answer(200, json.dumps(NOTICE))
            else:
                self.answer(404, "")
            Service.has_notice = True

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_spot_notice_drains_the_node(metadata, tmp_path, monkeypatch):
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RAY_CALLS"\n')
    ray.chmod(0o755)
    monkeypatch.setenv("RAY_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    specification = importlib.util.spec_from_file_location("watcher", WATCHER)
    watcher = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(watcher)
    monkeypatch.setattr(watcher.spot_notice, "__defaults__", (metadata,))
    monkeypatch.setattr(watcher, "POLL_S", 0.01)

    watcher.main("head:6379")

    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:3] == ["drain-node", "--address", "head:6379"]
    options = dict(zip(calls[1::2], calls[2::2], strict=True))
    assert options["--reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert options["--reason-message"] == f"spot: {json.dumps(NOTICE)}"
    assert 0 < int(options["--deadline-remaining-seconds"]) < 120


def test_ray_has_the_options_that_the_watcher_gives():
    # A hidden command of Ray's: it may change without notice.
    options = {name: option for option in drain_node.params for name in option.opts}
    assert {"--address", "--reason-message", "--deadline-remaining-seconds"} <= set(options)
    assert "DRAIN_NODE_REASON_PREEMPTION" in options["--reason"].type.choices

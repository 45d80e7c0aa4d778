"""The service as a cluster runs it: ingress and completers on Serve; an alias that moves."""

import asyncio
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scan_bodies as bodies
import yaml

from stem_complete.data.scans import RasterScan
from stem_complete.inference import load_artifact, register_model, save_artifact
from stem_complete.inference.sources import RELEASED_MODEL
from stem_complete.serving.service.access import TOKEN_HASHES, new_token
from stem_complete.serving.service.completing import Task
from stem_complete.serving.service.config import ServiceConfig

pytestmark = pytest.mark.ray

# On a busy machine a proxy is not ready in the five seconds after which Serve kills it.
PATIENT = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

ON_CLUSTER = '''
"""Deploys the whole service on a Ray cluster of its own, and asks it through Serve's proxy."""
import io, socket, sys
import numpy as np, ray, requests
from ray import serve
from stem_complete.serving.service.deployments import cluster_app

storage, token, *scans = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
serve.run(cluster_app({"storage": storage, "batch_size": 2}), name="stem-complete")
url, known = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}
assert requests.get(f"{url}/v1/health").status_code == 200
assert requests.get(f"{url}/v1/model").status_code == 401
for scan in scans:  # HDF5 is read in a process apart
    media = {"Content-Type": f"application/x-{scan.rpartition('.')[2]}"}
    answer = requests.post(
        f"{url}/v1/complete?self_check=false",
        open(scan, "rb").read(),
        headers={**media, "Accept": "application/x-npy", **known},
    )
    assert answer.status_code == 200, answer.text
    np.save(f"{scan}.npy", np.load(io.BytesIO(answer.content)))
live = requests.post(f"{url}/v1/scans", json={"shape": [64, 64]}, headers=known).json()
rows = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0)), -1).reshape(-1, 2)
rows = np.column_stack([rows, np.sin(rows[:, 0] / 5)])[::3].astype("<f4")
path = f"{url}/v1/scans/{live['id']}"
assert requests.put(f"{path}/chunks/0", rows.tobytes(), headers=known).status_code == 201
assert requests.post(f"{path}/finish", json={"chunks": 1}, headers=known).status_code == 200
events = requests.get(f"{path}/events", headers=known).text
assert "event: preview" in events and "event: finished" in events, events
assert requests.get(f"{url}/", headers=known).status_code == 200
serve.delete("stem-complete")
print("all is well")
'''


def test_the_application_answers_behind_serves_proxy(tmp_path, example, released):
    from ray.serve.schema import ServeDeploySchema

    deployed = Path(__file__).parents[4] / "cluster" / "serve.yaml"
    ServeDeploySchema.model_validate(yaml.safe_load(deployed.read_text()))
    token, its_hash = new_token()
    scans = {tmp_path / "scan.npz": bodies.npz, tmp_path / "scan.hdf5": bodies.hdf5}
    for scan, body in scans.items():
        scan.write_bytes(body(intensity=example[0], dwell=example[1]))
    done = subprocess.run(
        [sys.executable, "-c", ON_CLUSTER, str(tmp_path), token, *map(str, scans)],
        env={**os.environ, **PATIENT, TOKEN_HASHES: its_hash},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("all is well\n"), done.stdout + done.stderr
    expected = released.complete_scan(RasterScan(*example)).image
    for scan in scans:
        found = np.load(f"{scan}.npy")
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_a_service_for_others_is_not_deployed_without_tokens(monkeypatch, tmp_path):
    from stem_complete.errors import ConfigError
    from stem_complete.serving.service.deployments import cluster_app

    monkeypatch.delenv(TOKEN_HASHES, raising=False)
    with pytest.raises(ConfigError, match="--new-token"):
        cluster_app({"storage": str(tmp_path)})
    assert cluster_app({"storage": str(tmp_path), "insecure": True}) is not None


def test_requests_at_a_completer_are_enough_to_fill_its_batches(tmp_path):
    from stem_complete.serving.service.deployments import completers

    config = ServiceConfig(batch_size=7, storage=tmp_path, replicas=2, most_replicas=5)
    deployment = completers(config)._bound_deployment
    assert deployment.max_ongoing_requests >= 2 * 7
    assert deployment.max_queued_requests == config.limits.waiting
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)


def test_an_alias_that_moves_changes_the_model_and_drops_no_request(
    tmp_path, uri, example, monkeypatch
):
    from stem_complete.credentials import Handover
    from stem_complete.serving.service.deployments import CompleterReplica

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = load_artifact(RELEASED_MODEL)
    next(other.network.parameters()).data *= 1.01
    save_artifact(tmp_path / "other", other)
    register_model(RELEASED_MODEL, "gold", "production", uri=uri)
    config = ServiceConfig(model="models:/gold@production", poll_model_s=0.3, storage=tmp_path)
    replica = CompleterReplica(config, Handover())
    task = Task(RasterScan(*example))

    async def ask() -> list[str]:
        names = []

        async def until_changed() -> None:
            while len(set(names)) < 2:
                done = await replica.complete(task)
                assert not isinstance(done, Exception)
                names.append(done.model.weights_sha256)

        asking = asyncio.gather(*[until_changed() for _ in range(3)])
        await asyncio.sleep(0.5)
        await asyncio.to_thread(register_model, tmp_path / "other", "gold", "production", uri=uri)
        await asking
        await replica.close()
        return names

    names = asyncio.run(ask())
    assert len(set(names)) == 2
    changes = sum(a != b for a, b in pairwise(names))
    assert changes <= 3  # once, but for answers that overtake each other
    assert names[0] != names[-1]

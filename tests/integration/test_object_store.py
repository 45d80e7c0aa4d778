"""Runs on an object store: a real S3-compatible server, spoken to over its endpoint."""

import json
import shutil
import subprocess
import sys
import urllib.request
from contextlib import suppress

import pytest
import s3fs
import torch
import workers
import zarr
from faults import free_port
from faults.batch import digests, write_scans
from upath import UPath
from waiting import wait_until

from stem_complete.data.formats.scan_arrays import remote_store
from stem_complete.errors import ArtifactError, BusyError, DataError
from stem_complete.inference import Outputs, load_completer
from stem_complete.inference.export import export_checkpoint
from stem_complete.inspection import inspect_path
from stem_complete.launch import launch
from stem_complete.serving.batch import complete_files
from stem_complete.storage import claim
from stem_complete.storage.claim import CLAIM_FILE, ClaimLostError, claimed
from stem_complete.storage.manifest import FOLDER
from stem_complete.storage.paths import StorageError, create
from stem_complete.training import Checkpoints, build_task

BUCKET = "laboratory"


class Server:
    """An S3-compatible server in a process of its own, empty whenever it starts."""

    def __init__(self, log):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log

    def start(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-p", str(self.port)],
                stdout=output,
                stderr=output,
            )
        wait_until(self.answers, "the server")

    def answers(self):
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError), urllib.request.urlopen(self.url, timeout=10):
            return True
        return False

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("s3") / "server.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """An empty bucket, as users reach it: by environment variables."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"{server.url}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(BUCKET)
    yield UPath(f"s3://{BUCKET}")
    s3fs.S3FileSystem.clear_instance_cache()


def state_of(step, size=1000):
    return {
        "task": {"w": torch.full((size,), float(step)), "frozen": torch.tensor(True)},
        "optimizer": {"w.exp_avg": torch.full((size,), -float(step))},
    }


def save(checkpoints, step, score=None, size=1000):
    checkpoints.save(
        step, state_of(step, size), config={"name": "x"}, metrics={"loss": 0.5}, score=score
    )
    checkpoints.wait()


def assert_is(checkpoint, step, size=1000):
    assert checkpoint.step == step
    for part, tensors in state_of(step, size).items():
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.state[part][name], tensor)


def names(checkpoints):
    return [folder.name for folder in checkpoints.folders()]


def test_the_last_and_the_best_are_kept(s3):
    checkpoints = Checkpoints(s3 / "runs" / "a", keep=2, keep_best=1)
    checkpoints.check_writable()
    assert checkpoints.latest() is None
    for step, score in ((10, 0.5), (20, 0.1), (30, 0.3), (40, None), (50, None)):
        save(checkpoints, step, score)
    assert names(checkpoints) == ["step-00000050", "step-00000040", "step-00000020"]
    # Another process sees the same.
    reader = Checkpoints(f"s3://{BUCKET}/runs/a")
    assert_is(reader.latest(), 50)
    assert_is(reader.best(), 20)
    assert len(s3.fs.find(f"{BUCKET}/runs/a")) == 3 * 3


def test_large_files_go_in_parts(s3):
    checkpoints = Checkpoints(s3 / "large")
    size = 10 * 2**20  # 40 MiB
    save(checkpoints, 1, size=size)
    assert_is(checkpoints.latest(), 1, size)
    (folder,) = checkpoints.folders()
    etag = s3.fs.info(f"{BUCKET}/large/checkpoints/{folder.name}/task.safetensors")["ETag"]
    assert etag.strip('"').endswith("-2")  # S3 counts the parts of an upload there


def test_damaged_and_unfinished_ones_are_passed_over_and_tidied_up(s3, caplog):
    checkpoints = Checkpoints(s3 / "a", keep=9)
    for step in (1, 2, 3, 4):
        save(checkpoints, step)
    folders = {int(folder.name[-1]): folder for folder in checkpoints.folders()}
    (folders[4] / "metadata.json").unlink()
    corrupt = folders[3] / "optimizer.safetensors"
    corrupt.write_bytes(corrupt.read_bytes()[:-1] + b"\1")
    (folders[2] / "task.safetensors").unlink()

    resumed = Checkpoints(s3 / "a")
    assert_is(resumed.latest(), 1)
    for reason in ("unfinished", "corrupt optimizer.safetensors", "no task.safetensors"):
        (message,) = [message for message in caplog.messages if reason in message]
        assert message.endswith("step-00000001 is used instead")
    save(resumed, 2)
    assert names(resumed) == ["step-00000002", "step-00000001"]
    assert len(s3.fs.find(f"{BUCKET}/a")) == 2 * 3


def test_no_kill_costs_a_checkpoint(s3):
    assert workers.steps_saved_though_killed(f"s3://{BUCKET}/killed", num_kills=3) >= 3


class TestClaim:
    """Two hosts share nothing but the bucket."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        for name in ("BEAT_S", "LAPSE_S", "SETTLE_S", "_POLL_S"):
            monkeypatch.setattr(claim, name, getattr(claim, name) / 20)

    def test_a_living_host_keeps_it_and_a_dead_one_does_not(self, s3, monkeypatch):
        run = s3 / "runs" / "a"
        with claimed(run) as held:
            left = (run / CLAIM_FILE).read_bytes()
            with pytest.raises(BusyError, match=r"its last sign of life \d s ago"), claimed(run):
                pass  # on this host
            monkeypatch.setattr(claim, "_machine", lambda: "another")
            with pytest.raises(BusyError, match="gave its last sign of life"), claimed(run):
                pass
            held.check()
        assert s3.fs.find(str(run), refresh=True) == []
        (run / CLAIM_FILE).write_bytes(left)
        with claimed(run):
            with pytest.raises(ClaimLostError, match="it claimed by process"):
                held.check()
            save(Checkpoints(run), 1)

    def test_one_of_two_creates_it(self, s3):
        assert create(s3 / "runs" / "file", b"1")
        assert not create(s3 / "runs" / "file", b"2")
        assert (s3 / "runs" / "file").read_bytes() == b"1"

    def test_in_a_missing_bucket_is_one_line(self, s3):
        with (
            pytest.raises(StorageError, match="bucket does not exist; create the bucket"),
            claimed(UPath("s3://elsewhere/runs/a")),
        ):
            pass


class TestErrors:
    def test_a_missing_bucket_is_one_line(self, s3):
        checkpoints = Checkpoints("s3://elsewhere/runs/a")
        for action in (checkpoints.check_writable, checkpoints.latest, checkpoints.folders):
            with pytest.raises(StorageError, match=r"bucket does not exist; create the bucket"):
                action()
        with pytest.raises(StorageError, match=r"bucket does not exist"):
            save(checkpoints, 1)
        with pytest.raises(StorageError, match=r"bucket does not exist"):
            inspect_path("s3://elsewhere/runs/a")
        assert s3.fs.ls("") == [BUCKET]  # none was made

    def test_a_run_makes_no_bucket(self, s3, small_config):
        config = small_config("storage=s3://nowhere/runs", "tracking.enabled=false")
        with pytest.raises(StorageError, match=r"bucket does not exist; create the bucket"):
            launch(config, local=True)
        assert s3fs.S3FileSystem().ls("") == [BUCKET]

    def test_credentials_may_come_by_the_url(self, s3, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setattr("stem_complete.credentials._kept", {})
        checkpoints = Checkpoints(f"s3://someone:sec/ret@{BUCKET}/run")
        save(checkpoints, 1)
        assert_is(checkpoints.latest(), 1)
        assert str(checkpoints.folder) == f"s3://{BUCKET}/run/checkpoints"
        assert checkpoints.folder.fs.secret == "sec/ret"

    def test_missing_credentials_are_one_line(self, s3, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match=r"credentials; set AWS_ACCESS_KEY_ID and"):
            Checkpoints(f"s3://{BUCKET}/a").check_writable()

    def test_a_server_that_is_down_costs_a_checkpoint_and_not_the_run(self, s3, server, caplog):
        checkpoints = Checkpoints(s3 / "a")
        save(checkpoints, 1)
        server.kill()
        try:
            with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
                save(checkpoints, 2)
            assert "the checkpoint of step 2 is lost, training goes on" in caplog.text
            with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
                checkpoints.latest()  # out of reach is not damaged: no run begins anew
        finally:
            server.start()
        s3.fs.mkdir(BUCKET)
        save(checkpoints, 3)
        assert_is(checkpoints.latest(), 3)


class TestRun:
    @pytest.fixture
    def config(self, s3, small_config):
        """Of a run on the bucket, with a checkpoint of a network and a better one of another."""
        config = small_config(f"storage=s3://{BUCKET}/runs")
        checkpoints = Checkpoints(config.run_folder)
        for step, score, scale in ((1, 0.1, 2.0), (2, 0.2, 1.0)):
            task = build_task(config, (64, 64))
            state = {name: tensor * scale for name, tensor in task.state_dict().items()
                     if tensor.is_floating_point()}  # fmt: skip
            checkpoints.save(
                step,
                {"task": task.state_dict() | state, "optimizer": {}},
                config=config.model_dump(mode="json"),
                metrics={"validation/rmse": score},
                score=score,
            )
        checkpoints.wait()
        return config

    @pytest.mark.parametrize(("which", "rmse"), [("last", 0.2), ("best", 0.1)])
    def test_its_model_is_exported(self, config, s3, tmp_path, which, rmse):
        """From the bucket to the bucket: the files that a local export writes."""
        quick = {"device": "cpu", "num_calibration_scans": 1}
        model = export_checkpoint(
            config.run_folder, config.run_folder / "model", which=which, **quick
        )
        assert str(model) == f"s3://{BUCKET}/runs/run/model"
        s3.fs.get(f"{BUCKET}/runs/run/model", str(tmp_path / "fetched"), recursive=True)
        local = export_checkpoint(str(config.run_folder), tmp_path / "local", which=which, **quick)
        fetched = load_completer(tmp_path / "fetched", "cpu").card
        assert fetched == load_completer(local, "cpu").card
        assert fetched.metrics["validation/rmse"] == rmse

    def test_it_is_inspected(self, config):
        values = inspect_path(str(config.run_folder))
        assert values["kind"] == "run"
        assert [
            (entry["step"], entry["last"], entry["best"]) for entry in values["checkpoints"]
        ] == [
            (2, True, False),
            (1, False, True),
        ]
        assert values["model"] is None
        json.dumps(values, allow_nan=False)

    def test_an_empty_place_has_nothing_to_export_or_inspect(self, s3, tmp_path):
        with pytest.raises(ArtifactError, match="found no such folder"):
            export_checkpoint(s3 / "nowhere", tmp_path / "model")
        with pytest.raises(DataError, match="found nothing"):
            inspect_path(s3 / "nowhere")


class TestBatch:
    """Scans come from a bucket, and completions go there."""

    NUM, IN_SHARD = 5, 2

    @pytest.fixture
    def scans(self, s3, tmp_path):
        """An array of scans on disk and in the bucket."""
        local = write_scans(tmp_path / "scans.zarr", self.NUM, 64)
        s3.fs.put(str(local), f"{BUCKET}/scans.zarr", recursive=True)
        return f"s3://{BUCKET}/scans.zarr"

    def complete(self, scans, output, file_format):
        return complete_files(
            [scans],
            load_completer(device="cpu"),
            output,
            outputs=Outputs(error_map=True),
            file_format=file_format,
            scans_in_shard=self.IN_SHARD,
        )

    @pytest.mark.parametrize("file_format", ["tiff", "npy", "zarr"])
    def test_has_the_bytes_of_one_on_disk(self, s3, scans, tmp_path, file_format):
        there = f"s3://{BUCKET}/out"
        report = self.complete(scans, there, file_format)
        assert (len(report.done), report.failed) == (self.NUM, {})
        # What the store says now, not what was listed before.
        s3fs.S3FileSystem.clear_instance_cache()
        again = self.complete(scans, there, file_format)
        assert (len(again.skipped), again.done, again.failed) == (self.NUM, {}, {})

        s3fs.S3FileSystem().get(f"{BUCKET}/out", str(tmp_path / "fetched"), recursive=True)
        assert not (tmp_path / "fetched" / FOLDER / CLAIM_FILE).exists()
        self.complete(str(tmp_path / "scans.zarr"), tmp_path / "local", file_format)
        if file_format == "zarr":  # which tells where each scan came from
            for folder in ("fetched", "local"):
                shutil.rmtree(tmp_path / folder / "64x64" / "scan")
        assert digests(tmp_path / "fetched") == digests(tmp_path / "local")

    def test_can_be_read_there(self, s3, scans):
        self.complete(scans, f"s3://{BUCKET}/out.zarr", None)
        store = remote_store(s3.fs, f"{BUCKET}/out.zarr")
        root = zarr.open_group(store, mode="r")
        assert root["64x64/completion"].shape == (self.NUM, 64, 64)
        assert not (root["64x64/completion"][...] != root["64x64/completion"][...]).any()

    def test_a_second_driver_is_refused(self, s3, scans, monkeypatch):
        for name in ("BEAT_S", "LAPSE_S", "SETTLE_S", "_POLL_S"):
            monkeypatch.setattr(claim, name, getattr(claim, name) / 20)
        with claimed(s3 / "out" / FOLDER):
            monkeypatch.setattr(claim, "_machine", lambda: "another")
            with pytest.raises(BusyError, match="completes scans to it"):
                self.complete(scans, f"s3://{BUCKET}/out", "npy")

    def test_a_missing_bucket_is_one_line(self, s3, scans):
        with pytest.raises(StorageError, match="create the bucket"):
            self.complete(scans, "s3://nowhere/out", "npy")

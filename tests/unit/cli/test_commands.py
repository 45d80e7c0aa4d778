"""Each command: arguments and defaults become one call, and its result is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from upath import UPath

from stem_complete.config import load_config
from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.store.ingest import IngestReport
from stem_complete.data.store.layout import LeftOut
from stem_complete.evaluation import DEFAULT_BASELINES, Measures, Report
from stem_complete.inference import Outputs
from stem_complete.launch import Outcome
from stem_complete.serving.batch import CompleteReport
from stem_complete.tracking import Registered
from stem_complete.training import TrainingResult


class TestDemo:
    def test_defaults(self, run, replaced):
        calls = replaced("stem_complete.demo.run_demo")
        assert run("demo").code == 0
        assert calls == [((Path("stem-complete-demo"),), {"seed": 0, "overrides": []})]

    def test_options(self, run, replaced):
        calls = replaced("stem_complete.demo.run_demo")
        assert run("demo", "training.steps=3", "--output", "x", "--seed", 4).code == 0
        assert calls == [((Path("x"),), {"seed": 4, "overrides": ["training.steps=3"]})]

    def test_a_seed_is_not_negative(self, run):
        done = run("demo", "--seed", "-1")
        assert done.code == 2
        assert "'--seed'" in done.error


class TestComplete:
    @pytest.fixture
    def calls(self, replaced):
        replaced("stem_complete.inference.load_completer")
        replaced("stem_complete.serving.batch.in_process.InProcess")
        return replaced("stem_complete.serving.batch.complete_files", CompleteReport({"a": "b"}))

    def test_defaults(self, run, calls):
        assert run("complete", "a.csv", "--output", "out").output == (
            "1 scan completed in out, 0 already there, 0 failed\n"
        )
        ((arguments, keywords),) = calls
        assert arguments == (["a.csv"], None, "out")
        assert keywords.pop("progress")
        assert keywords.pop("each")
        assert keywords == {
            "dwell": None,
            "along": None,
            "options": ScanOptions(),
            "published": False,
            "outputs": Outputs(self_check=True),
            "file_format": None,
            "scans_in_shard": 256,
            "timeout_s": 3600.0,
        }

    def test_several_workers_need_ray(self, run, calls):
        done = run("complete", "a.csv", "--output", "out", "--workers", 2)
        assert done.code == 2
        assert "add --ray" in done.error

    @pytest.mark.parametrize("way", [["--ray"], ["--address", "head:6379"]])
    def test_on_ray(self, run, calls, way, monkeypatch):
        pools = []

        class Module:
            def RayPool(*arguments, **keywords):  # noqa: N802
                pools.append((arguments, keywords))

        monkeypatch.setitem(sys.modules, "stem_complete.serving.batch.on_ray", Module)
        assert run("complete", "a.csv", "--output", "out", *way, "--workers", 2, "--gpu").code == 0
        ((arguments, keywords),) = pools
        assert arguments[0].name == "released"
        assert keywords == {
            "device": "cuda",
            "precision": "float32",
            "num_workers": 2,
            "use_gpu": True,
            "address": None if way == ["--ray"] else "head:6379",
        }

    def test_of_many_notes_and_failures_the_first_are_told(self, run, replaced, calls):
        report = CompleteReport({f"{n}": "b" for n in range(300)})
        report.notes = dict.fromkeys(report.done, "noted")
        report.failed = {f"x{n}": "bad" for n in range(101)}
        replaced("stem_complete.serving.batch.complete_files", report)
        done = run("complete", "a", "--output", "out")
        assert "300 scans completed" in done.output
        assert done.error.count(": noted") == 100
        assert "200 more notes in the manifest of out" in done.error
        assert done.error.count(": bad") == 100
        assert "1 more scan failed, see out/errors.jsonl" in done.error
        assert done.code == 1

    def test_options_say_what_files_do_not(self, run, calls):
        told = {
            "signal": "HAADF",
            "unmeasured": -1.0,
            "dwell_unit": "us",
            "full_dwell": 10.0,
            "position_unit": "nm",
            "step": 0.05,
        }
        lines = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
        lines += ["--shape", "512x384", "--origin", "-1.5,2", "--path", "path.csv"]
        assert run("complete", "a.csv", "--output", "out", *lines).code == 0
        assert calls[0].kwargs["along"] == "path.csv"
        assert calls[0].kwargs["options"] == ScanOptions(
            shape=(512, 384), origin=(-1.5, 2.0), **told
        )
        assert run("complete", "a.csv", "--output", "out", "--shape", "64").code == 0
        assert calls[1].kwargs["options"].shape == (64, 64)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--shape", "a"), ("--shape", "1,2,3"), ("--origin", "1,b"), ("--dwell-unit", "years")],
    )
    def test_values_that_are_none_are_wrong_use(self, run, calls, option, value):
        done = run("complete", "a.csv", "--output", "out", option, value)
        assert done.code == 2
        assert option in done.error
        assert len(done.error.splitlines()) == 1
        assert not calls


class TestEvaluate:
    @pytest.fixture
    def calls(self, replaced):
        replaced("stem_complete.evaluation.load_micrographs", "micrographs")
        return replaced("stem_complete.evaluation.evaluate", Report([], {}, [], ()))

    def test_all_combinations_are_evaluated(self, run, calls):
        options = ["--geometry", "random", "--geometry", "hilbert", "--dose", "none", "--dose", 9]
        assert run("evaluate", "--data", "x", *options, "--coverage", "1/20").code == 0
        (((micrographs, methods, conditions), keywords),) = calls
        assert micrographs == "micrographs"
        assert list(methods) == list(DEFAULT_BASELINES)
        assert [condition.labels for condition in conditions] == [
            (geometry, "1/20", noise)
            for geometry in ("random", "hilbert")
            for noise in ("none", "dose 9")
        ]
        assert keywords.pop("progress")
        assert keywords == {
            "seed": 0,
            "measures": Measures(details=True),
            "folder": None,
            "workers": None,
            "timeout_s": 3600.0,
        }

    def test_on_ray(self, run, calls, monkeypatch):
        made = []

        class Module:
            def RayWorkers(*arguments, **keywords):  # noqa: N802
                made.append((arguments, keywords))
                return "workers"

        monkeypatch.setitem(sys.modules, "stem_complete.serving.batch.on_ray", Module)
        assert run("evaluate", "--data", "x", "--ray", "--workers", 2).code == 0
        assert made == [
            (
                (None,),
                {
                    "device": "cpu",
                    "precision": "float32",
                    "num_workers": 2,
                    "use_gpu": False,
                    "address": None,
                },
            )
        ]
        assert calls[0][1]["workers"] == "workers"

    def test_a_submitted_job_keeps_its_output(self, run, calls, monkeypatch):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        done = run("evaluate", "--data", "x", "--ray", "--output", "lost")
        assert done.code == 2
        assert "--output: expected an absolute path" in done.error
        assert not calls

    def test_scans_that_failed_are_told(self, run, replaced, calls):
        replaced("stem_complete.evaluation.evaluate", Report([], {}, [], (), ("x: bad",)))
        done = run("evaluate", "--data", "x")
        assert done.code == 1
        assert "failed: x: bad" in done.error


class TestIngest:
    TARGET = "stem_complete.data.store.ingest.ingest"

    def report(self, **changes) -> IngestReport:
        return IngestReport("s.zarr", num_files=3, **changes)

    def test_defaults(self, run, replaced):
        calls = replaced(self.TARGET, self.report(added={"a.tif": 2, "b.tif": 3}))
        done = run("ingest", "a.tif", "b/", "--store", "s.zarr")
        assert done.code == 0
        assert done.output == (
            "5 crops of 2 files added to s.zarr, 0 files already there, 0 crops left out, "
            "0 files failed\n"
        )
        (call,) = calls
        assert call.args == (["a.tif", "b/"], Path("s.zarr"))
        assert call.kwargs.pop("progress")
        assert set(call.kwargs.values()) == {None}

    def test_options(self, run, replaced):
        calls = replaced(self.TARGET, self.report())
        options = ("--crop-size", 64, "--dtype", "float32", "--compression", "zstd",
                   "--signal", "HAADF", "--frame", 1, "--group", "(.*)_")  # fmt: skip
        assert run("ingest", "a", "--store", "s", *options).code == 0
        assert {k: v for k, v in calls[0].kwargs.items() if k != "progress"} == {
            "crop_size": 64,
            "dtype": "float32",
            "compression": "zstd",
            "signal": "HAADF",
            "frame": 1,
            "group_pattern": "(.*)_",
        }

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--crop-size", 31), ("--dtype", "int8"), ("--compression", "gzip"), ("--frame", -1)],
    )
    def test_values_out_of_range_are_wrong_use(self, run, replaced, option, value):
        calls = replaced(self.TARGET)
        done = run("ingest", "a", "--store", "s", option, value)
        assert done.code == 2
        assert f"Invalid value for '{option}'" in done.error
        assert len(done.error.splitlines()) == 1
        assert not calls

    def test_files_that_failed_are_named_and_the_exit_code_is_1(self, run, replaced):
        report = self.report(
            failed={"a.tif": "a.tif: expected an image, found text", "b.tif": "truncated"},
            skipped=["c.h5"],
            left_out=[LeftOut("d.tif", "HAADF", 0, row, 0, "constant") for row in (0, 64)],
        )
        replaced(self.TARGET, report)
        done = run("ingest", "x", "--store", "s")
        assert done.code == 1
        assert done.error.splitlines()[-4:] == [
            "failed: a.tif: expected an image, found text",
            "failed: b.tif: truncated",
            "no image: c.h5",
            "left out: 2 crops of d.tif: constant",
        ]
        assert "2 crops left out, 2 files failed" in done.output

    def test_reasons_that_differ_in_numbers_are_one(self, run, replaced):
        left_out = [
            LeftOut("d.tif", "", 0, row, 0, f"saturated, {row}% of the pixels at 255")
            for row in (31, 31, 40, 25)
        ]
        replaced(self.TARGET, self.report(left_out=left_out, notes=["no crops for test"]))
        assert run("ingest", "x", "--store", "s").error.splitlines()[-2:] == [
            "left out: 4 crops of d.tif: saturated, 31% of the pixels at 255, or for one of 2 "
            "reasons like it",
            "note: no crops for test",
        ]

    def test_two_reasons_of_one_kind_are_both_told(self, run, replaced):
        left_out = [LeftOut("d.tif", "", 0, 0, 0, f"saturated, {share}%") for share in (31, 25)]
        replaced(self.TARGET, self.report(left_out=left_out))
        last = run("ingest", "x", "--store", "s").error.splitlines()[-1]
        assert last == "left out: 2 crops of d.tif: saturated, 31%; or saturated, 25%"

    def test_one_is_counted_as_one(self, run, replaced):
        replaced(self.TARGET, self.report(added={"a.tif": 1}, failed={"b.tif": "b.tif: bad"}))
        assert run("ingest", "x", "--store", "s").output == (
            "1 crop of 1 file added to s, 0 files already there, 0 crops left out, 1 file failed\n"
        )

    def test_json(self, run, replaced):
        replaced(self.TARGET, self.report(added={"a.tif": 2}))
        done = run("ingest", "x", "--store", "s", "--json")
        assert json.loads(done.output)["num_added"] == 2


class TestTrain:
    @pytest.fixture
    def outcome(self, tmp_path) -> Outcome:
        config = load_config([], ["name=run", f"storage={tmp_path}", "data.store=s.zarr"])
        return Outcome(config, TrainingResult(6, {"loss": 0.5}, True), UPath("/m"), None)

    def test_files_and_changes(self, run, replaced, outcome):
        loaded = replaced("stem_complete.config.load_config", outcome.config)
        launched = replaced("stem_complete.launch.launch", [outcome])
        done = run("train", "compact", "more.yaml", "training.steps=3", "a.b=c")
        assert done == (0, "", "")
        assert loaded == [((["compact", "more.yaml"], ["training.steps=3", "a.b=c"]), {})]
        assert launched == [((outcome.config,), {"local": False})]

    def test_local_and_json(self, run, replaced, outcome):
        loaded = replaced("stem_complete.config.load_config", outcome.config)
        launched = replaced("stem_complete.launch.launch", [outcome])
        done = run("train", "compact", "training.batch_size=3", "--local", "--json")
        # Or the batch would have to be shared out among workers that there will not be.
        assert loaded[0].args[1] == [
            "training.batch_size=3",
            "scaling.num_workers=1",
            "scaling.min_workers=null",
        ]
        assert launched[0].kwargs == {"local": True}
        (run_,) = json.loads(done.output)
        assert run_ == {
            "name": "run",
            "run_folder": str(outcome.config.run_folder),
            "model": "/m",
            "step": 6,
            "metrics": {"loss": 0.5},
            "tracking_uri": None,
            "places": {},
        }

    def test_a_shorter_version(self, run, replaced, outcome):
        replaced("stem_complete.config.load_config", outcome.config)
        launched = replaced("stem_complete.launch.launch", [outcome])
        assert run("train", "compact", "--fraction", 0.5).code == 0
        (config,) = launched[0].args
        assert config.training.steps == outcome.config.training.steps / 2

    def test_changes_alone_are_wrong_use(self, run, replaced):
        launched = replaced("stem_complete.launch.launch")
        done = run("train", "training.steps=3")
        assert done.code == 2
        assert done.error == (
            "error: train: expected a config file, found only changes; name one, "
            "for example compact\n"
        )
        assert not launched


class TestCompare:
    TARGET = "stem_complete.experiments.comparison.compare"

    class Comparison:
        markdown = "| arm |"

        def to_dict(self):
            return {"arms": {}}

    def test_defaults(self, run, replaced, monkeypatch, tmp_path):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.chdir(tmp_path)
        calls = replaced(self.TARGET, self.Comparison())
        assert run("compare", "--output", "out") == (0, "| arm |\n", "")
        (call,) = calls
        uri, experiment, output = call.args
        assert uri.endswith("runs/mlflow.db")
        assert (experiment, output) == ("stem-complete", Path("out"))
        assert call.kwargs == {
            "metric": "train/outer_loss",
            "boxcar_steps": None,
            "names": None,
            "parent": None,
            "baseline": None,
            "loss_to_reach": None,
        }

    def test_options(self, run, replaced, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        calls = replaced(self.TARGET, self.Comparison())
        done = run(
            *("compare", "--output", "o", "--experiment", "e", "--name", "a*", "--name", "b"),
            *("--parent", "p", "--metric", "m", "--boxcar", 5, "--json"),
            *("--baseline", "mse", "--reach", 0.5),
        )
        assert json.loads(done.output) == {"arms": {}}
        assert calls[0].args == ("http://mlflow:5000", "e", Path("o"))
        assert calls[0].kwargs == {
            "metric": "m",
            "boxcar_steps": 5,
            "names": ["a*", "b"],
            "parent": "p",
            "baseline": "mse",
            "loss_to_reach": 0.5,
        }

    def test_an_output_is_needed(self, run):
        done = run("compare")
        assert done.code == 2
        assert "Missing option '--output'" in done.error


class TestRegister:
    @pytest.fixture
    def calls(self, replaced, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registered = Registered("gold", 3, "best", "0123", {"version": "http://mlflow"})
        return replaced("stem_complete.inference.register_model", registered)

    def test_defaults(self, run, calls):
        done = run("register", "runs/compact", "--name", "gold")
        assert done == (0, "model    models:/gold@best\nversion  http://mlflow\n", "")
        assert calls == [(("runs/compact", "gold", None), {"uri": None})]

    def test_options(self, run, calls):
        options = ("--name", "gold", "--alias", "best", "--uri", "http://mlflow:5000", "--json")
        assert json.loads(run("register", "m", *options).output) == {
            "name": "gold",
            "version": 3,
            "alias": "best",
            "run_id": "0123",
            "places": {"version": "http://mlflow"},
            "model": "models:/gold@best",
        }
        assert calls == [(("m", "gold", "best"), {"uri": "http://mlflow:5000"})]

    def test_a_name_is_needed(self, run, calls):
        done = run("register", "m")
        assert done.code == 2
        assert "Missing option '--name'" in done.error


class TestInspect:
    def test_prints_a_summary(self, run, replaced):
        calls = replaced("stem_complete.inspection.inspect_path", {"kind": "store"})
        replaced("stem_complete.summaries.screen", "store s.zarr")
        assert run("inspect", "s.zarr") == (0, "store s.zarr\n", "")
        assert calls == [(("s.zarr",), {})]
        run("inspect", "s3://bucket/run")
        assert calls[1:] == [(("s3://bucket/run",), {})]

    def test_json(self, run, replaced):
        replaced("stem_complete.inspection.inspect_path", {"kind": "store"})
        assert json.loads(run("inspect", "s.zarr", "--json").output) == {"kind": "store"}

    def test_prints_all(self, run, replaced):
        replaced("stem_complete.inspection.inspect_path", {"kind": "store", "files": [1]})
        assert run("inspect", "s.zarr", "--all") == (0, "kind: store\nfiles: [1]\n", "")

    def test_draws_a_contact_sheet(self, run, replaced):
        replaced("stem_complete.inspection.inspect_path", {"kind": "store"})
        replaced("stem_complete.summaries.screen", "")
        drawn = replaced("stem_complete.inspection.draw_store")
        assert run("inspect", "s.zarr", "--contact-sheet", "x.png").code == 0
        assert drawn == [((Path("s.zarr"), Path("x.png")), {})]


class TestServe:
    def test_a_new_token_is_shown_with_its_hash(self, run):
        from stem_complete.serving.service.access import is_known

        done = run("serve", "--new-token")
        assert done.code == 0
        words = done.output.split()
        assert is_known(words[words.index("token:") + 1], [words[words.index("hash:") + 1]])

    def test_others_are_not_listened_to_without_a_token(self, run, replaced, monkeypatch):
        monkeypatch.delenv("STEM_COMPLETE_TOKEN_HASHES", raising=False)
        calls = replaced("stem_complete.serving.service.run.run_service")
        done = run("serve", "--host", "0.0.0.0")
        assert done.code == 2
        assert "--new-token" in done.error
        assert calls == []

    @pytest.mark.parametrize(("text", "expected"), [("3", (3, None)), ("2-5", (2, 5))])
    def test_options_become_one_call(self, run, replaced, monkeypatch, tmp_path, text, expected):
        monkeypatch.setattr("stem_complete.serving.service.run.listening", _Listening)
        calls = replaced("stem_complete.serving.service.run.run_service")
        options = ("--model", "m", "--batch-size", 7, "--gpu", "--storage", tmp_path)
        assert run("serve", "--replicas", text, *options).code == 0
        ((config, _), _options) = calls[0]
        assert (config.replicas, config.most_replicas) == expected
        assert (config.model, config.batch_size, config.device) == ("m", 7, "cuda")
        assert config.storage == tmp_path

    @pytest.mark.parametrize("text", ["0", "x", "3-2", "1-", "-1"])
    def test_replicas_that_make_no_sense(self, run, text):
        done = run("serve", f"--replicas={text}")
        assert done.code == 2
        assert "--replicas" in done.error


class _Listening:
    def __init__(self, host: str, port: int) -> None:
        self.place = host, port

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

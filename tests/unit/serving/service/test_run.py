"""Who the service listens to."""

import ast
import json
import logging
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import stem_complete.client
from stem_complete.errors import ArtifactError, ConfigError
from stem_complete.serving.service.access import TOKEN_HASHES, new_token
from stem_complete.serving.service.config import ServiceConfig, storage_folder, token_hashes
from stem_complete.serving.service.logs import JsonLines
from stem_complete.serving.service.run import check_address, run_service


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_token(host):
    check_address(host, (), insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "microscope.example.org", ""])
def test_others_need_one_unless_it_is_to_be_insecure(host):
    with pytest.raises(ConfigError, match="--new-token"):
        check_address(host, (), insecure=False)
    check_address(host, (new_token()[1],), insecure=False)
    check_address(host, (), insecure=True)


def test_hashes_come_from_the_environment(monkeypatch):
    hashes = [new_token()[1] for _ in range(2)]
    monkeypatch.setenv(TOKEN_HASHES, "  ".join(hashes))
    assert token_hashes() == tuple(hashes)
    monkeypatch.setenv(TOKEN_HASHES, "in-clear")
    with pytest.raises(ConfigError, match="sha256"):
        token_hashes()


def test_storage_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert storage_folder() == tmp_path / "stem-complete" / "service"
    assert ServiceConfig().storage == storage_folder()


def test_batches_fit_into_what_a_completer_takes_at_once():
    for config in (ServiceConfig(), ServiceConfig(device="cuda"), ServiceConfig(batch_size=32)):
        assert config.ongoing >= 2 * config.together
    assert ServiceConfig(device="cuda").use_gpu
    for wrong in ({"batch_size": 0}, {"replicas": 0}, {"modell": "x"}, {"poll_model_s": 0}):
        with pytest.raises(ValidationError):
            ServiceConfig.model_validate(wrong)


def test_log_entries_are_lines_of_json():
    record = logging.LogRecord("a", logging.INFO, "", 0, "request\nof %s", ("x",), None)
    record.fields = {"request_id": "7"}
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["request_id"]) == ("request\nof x", "7")


def test_the_client_is_one_file_that_can_be_copied():
    tree = ast.parse(Path(stem_complete.client.__file__).read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    tops, inner = set(), set()
    for node in ast.walk(tree):
        if id(node) in guarded or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        where = tops if node in tree.body else inner
        where |= {str(name).split(".")[0] for name in names}
    assert tops - {*sys.stdlib_module_names, "__future__"} == {"requests"}
    assert inner - set(sys.stdlib_module_names) == {"numpy"}


def test_a_model_that_is_not_there_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("stem_complete.serving.service.run.ray_cluster", None)  # not called
    config = ServiceConfig(model=str(tmp_path / "nothing"), storage=tmp_path)
    with pytest.raises(ArtifactError, match="nothing"):
        run_service(config, None)

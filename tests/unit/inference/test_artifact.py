from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stem_complete.errors import ArtifactError
from stem_complete.inference import (
    TrainingSource,
    build_artifact,
    load_artifact,
    save_artifact,
)
from stem_complete.inference.card import CARD_FILE
from stem_complete.vocabulary import WEIGHTS_FILE


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="paper"),
        pytest.param(
            (
                "model.bias=true",
                "model.reference_layers=true",
                "model.leaky_slope=0.1",
                "model.mean_norm_at_inference=image",
                "model.encoding=reference",
            ),
            id="reference-code",
        ),
    ],
)
def test_a_loaded_model_computes_what_the_network_did(
    tmp_path, make_config, make_network, overrides
):
    config = make_config(*overrides)
    network = make_network(config).eval()
    x = torch.randn(1, 2, 64, 96)
    with torch.no_grad():
        expected = network(x).full

    loaded, card = load_artifact(
        save_artifact(tmp_path / "model", build_artifact(network, config=config))
    )

    torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)
    assert card.encoding == config.model.encoding
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_network_of_a_model_stays_as_it_is(network, config):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_artifact(network, config=config)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_card_tells_what_a_model_is(tmp_path, network, config, calibration):
    source = TrainingSource(name="a.dm4", signal="HAADF", sha256="00", num_crops=3, licence="MIT")
    model = build_artifact(
        network,
        config=config,
        metrics={"validation/rmse": 0.05, "train/outer_loss": float("nan")},
        calibration=calibration,
        training_data=[source],
    )
    folder = save_artifact(tmp_path / "model", model)
    card = load_artifact(folder).card
    assert card.calibration == calibration
    assert card.metrics == {"validation/rmse": 0.05, "train/outer_loss": None}
    assert card.training_data == (source,)
    assert card.coverage == config.scan.coverage
    assert card.config == config.model_dump(mode="json")
    assert {file.name for file in folder.iterdir()} == {CARD_FILE, WEIGHTS_FILE}
    # Who may read the one may read the other.
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def _edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | changes))


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _resize(folder: Path) -> None:
    """Another architecture than that of the weights."""
    card = json.loads((folder / CARD_FILE).read_text())
    card["architecture"]["sizes"]["inner_blocks"] += 1
    (folder / CARD_FILE).write_text(json.dumps(card))


DAMAGES = {
    "missing": (shutil.rmtree, "a model folder"),
    "no-card": (lambda f: (f / CARD_FILE).unlink(), "no model.json"),
    "no-weights": (lambda f: (f / WEIGHTS_FILE).unlink(), "no such file"),
    "card-is-no-json": (lambda f: (f / CARD_FILE).write_text("{"), "cannot be read"),
    "card-is-no-text": (lambda f: (f / CARD_FILE).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "card-is-a-list": (lambda f: (f / CARD_FILE).write_text("[]"), "no format_version"),
    "newer": (lambda f: _edit_card(f, format_version=99), "format 99.*update stem-complete"),
    "unknown-encoding": (lambda f: _edit_card(f, encoding="other"), "encoding"),
    "unknown-key": (lambda f: _edit_card(f, novelty=1), "novelty"),
    "one-bit-flipped": (lambda f: _flip_byte(f / WEIGHTS_FILE), "other content"),
    "other-architecture": (_resize, "Missing key"),
    "other-sizes": (
        lambda f: _edit_card(
            f,
            architecture={
                "sizes": {"inner_widths": [1]},
                "reference_layers": False,
                "bias": False,
                "leaky_slope": 0.0,
                "mean_norm_at_inference": "running",
            },
        ),
        "field required at architecture.sizes.inner_blocks",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(tmp_path, model_folder, damage, message):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)


def test_models_from_before_other_norms_open(tmp_path, model_folder):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    architecture = json.loads((folder / "model.json").read_text())["architecture"]
    norm = architecture["sizes"].pop("norm")
    architecture["sizes"]["mean_norm"] = norm == "mean"
    _edit_card(folder, architecture=architecture)
    assert load_artifact(folder).card.architecture.sizes.norm == norm


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match="found a file"):
        load_artifact(tmp_path / "model.pt")


def test_a_model_is_replaced(model_folder, tmp_path, make_config, make_network):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = make_config("name=other")
    save_artifact(folder, build_artifact(make_network(config), config=config))
    assert load_artifact(folder).card.name == "other"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_model_survives_a_failed_replacement(
    model_folder, tmp_path, make_config, make_network, monkeypatch
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = make_config("name=other")
    other = build_artifact(make_network(config), config=config)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stem_complete.inference.artifact.save", disk_full)
        with pytest.raises(ArtifactError, match="No space left on device; make room"):
            save_artifact(folder, other)
    with torch.no_grad():
        next(other.network.parameters())[:] = torch.nan
    with pytest.raises(ArtifactError, match="NaN"):
        save_artifact(folder, other)

    assert load_artifact(folder).card.name == "tiny"
    assert list(tmp_path.iterdir()) == [folder]


def test_the_working_folder_may_be_the_model(tmp_path, artifact, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_artifact(".", artifact)
    assert load_artifact(tmp_path / "here").card.name == "tiny"


def test_only_models_are_replaced(tmp_path, artifact):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ArtifactError, match="other things in it"):
        save_artifact(tmp_path, artifact)
    assert (tmp_path / "thesis.tex").read_text() == "..."

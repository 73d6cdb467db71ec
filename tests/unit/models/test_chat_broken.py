"""Checkpoints that can't be used, each with one clear sentence; and instructions that no template can hold."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import errors

from evertune.models import load_lmm
from evertune.models.hub import hub_folder
from evertune.utils.errors import UserError


@pytest.fixture
def copied(tiny_chat, tmp_path):
    """A copy of a miniature that may be broken."""

    def copy(name="llava"):
        return shutil.copytree(tiny_chat(name), tmp_path / name)

    return copy


def refused(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))
    assert "\n" not in str(caught.value)


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_an_unsupported_architecture(copied):
    folder = copied()
    changed(folder / "config.json", model_type="gpt9")
    refused(folder, "has no family 'gpt9'; it has: smol, instructblip, blip-2, llava")


def test_pickles_are_refused(copied):
    folder = copied()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is a pickle, which can run code")


def test_a_full_memory_is_no_broken_checkpoint(copied, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_lmm(str(copied()), dtype="float32", device=torch.device("cpu"))


def test_missing_weights(copied):
    folder = copied()
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights as safetensors")


def test_cut_weights(copied):
    folder = copied()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "model.safetensors: its header would take .* of 1,000: it is cut off or damaged")


def test_weights_of_another_size(copied):
    folder = copied()
    config = json.loads((folder / "config.json").read_text())
    changed(folder / "config.json", text_config={**config["text_config"], "hidden_size": 64})
    refused(folder, "can't be read as a llava checkpoint")


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json"])
def test_missing_files_of_the_processor(copied, file):
    folder = copied()
    (folder / file).unlink()
    refused(folder, "its processor can't be read")


def test_a_processor_that_does_not_fit(copied):
    folder = copied()
    changed(folder / "processor_config.json", patch_size=14)
    refused(folder, "processor does not fit the model: it leaves 4 places .* makes 16 visual tokens")


def test_a_chat_template_without_roles(copied):
    folder = copied()
    template = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] or '<image>' }}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, "chat template has no roles")


def test_a_chat_template_that_forgets_the_image(copied):
    folder = copied()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    )
    refused(folder, "chat template does not fit its processor: .*'<image>' and the text should stand once each")


def test_no_chat_template(copied):
    folder = copied()
    (folder / "chat_template.jinja").unlink()
    refused(folder, "has no chat template")


def test_a_chat_template_that_is_broken(copied):
    folder = copied()
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] ")
    refused(folder, "chat template can't be used")


def test_a_hub_that_can_not_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    refused("someone/some-model", "there is no folder 'someone/some-model', and the hub can't be reached")


def answering(kind, status):
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        (answering(errors.GatedRepoError, 403), "is gated: accept its licence at https://huggingface.co/x/y"),
        (answering(errors.RepositoryNotFoundError, 404), "no folder 'x/y', and no model of this id"),
        (answering(errors.RemoteEntryNotFoundError, 404), "has no config.json on the hub"),
        (answering(errors.HfHubHTTPError, 503), "the hub can't be reached"),
    ],
)
def test_what_the_hub_says(monkeypatch, problem, match):
    def ask(*_arguments, **_options):
        raise problem

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", ask)
    refused("x/y", match)


@pytest.mark.slow
def test_a_model_of_the_hub_is_its_folder(monkeypatch, tiny_chat):
    """The configuration is asked for first, and the weights come as safetensors only."""
    prompts = []

    def config(name, file):
        prompts.append((name, file))
        return str(tiny_chat("llava") / file)

    def everything(name, *, allow_patterns, ignore_patterns):
        prompts.append((name, allow_patterns))
        return str(tiny_chat("llava"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", everything)
    lmm = load_lmm("owner/llava", dtype="float32", device=torch.device("cpu"))
    assert lmm.fingerprint == load_lmm(str(tiny_chat("llava")), dtype="float32", device=torch.device("cpu")).fingerprint
    assert prompts[0] == ("owner/llava", "config.json")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in prompts[-1][1])


def test_a_hub_model_of_pickles(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match="the model x/y has no weights as safetensors"):
        hub_folder("x/y")


def test_code_of_a_folder_never_runs(copied, monkeypatch):
    """`auto_map` names Python files of the folder; it neither runs nor is the user asked on the terminal."""
    prompts = []
    monkeypatch.setattr("builtins.input", lambda *words: prompts.append(words) or "y")
    maps = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model", "AutoProcessor": "evil.Processor"}
    maps |= {"AutoTokenizer": ["evil.Tokenizer", None], "AutoImageProcessor": "evil.Images"}
    folder = copied()
    (folder / "evil.py").write_text("import sys\nsys.modules['evertune_was_here'] = sys\nraise SystemExit(3)\n")
    for path in folder.glob("*.json"):
        if isinstance(json.loads(path.read_text()), dict) and path.name != "tokenizer.json":
            changed(path, auto_map=maps)
    load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))
    changed(folder / "config.json", model_type="evil")
    refused(folder, "evil")
    assert "evertune_was_here" not in sys.modules and prompts == []

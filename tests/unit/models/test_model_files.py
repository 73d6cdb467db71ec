"""Files of an untrusted model folder: what is read or hashed is vetted, and nothing in it leads elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from evertune.models import load_lmm, load_on_paper, model_folder
from evertune.models.file_bounds import deciding_files, refuse_unbounded
from evertune.utils.errors import UserError

ESCAPE = "\x1b]0;title\x07"


@pytest.fixture
def copied(tiny_chat, tmp_path):
    """A copy of a miniature that may be broken."""
    return shutil.copytree(tiny_chat("llava"), tmp_path / "model")


def refused(folder, match):
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and time.monotonic() - start < 30


def edited(file, change):
    content = json.loads(file.read_text()) if file.exists() else {}
    change(content)
    file.write_text(json.dumps(content))


def sparse(path, size=10 << 30):
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


@pytest.mark.parametrize("place", ["", "additional_chat_templates", "qformer_tokenizer"])
def test_every_file_that_is_read_is_vetted(copied, place):
    folder = copied / place
    folder.mkdir(exist_ok=True)
    extra = folder / "more.json"
    os.mkfifo(extra)
    refused(copied, "more.json is no regular file")
    extra.unlink()
    extra.symlink_to("/dev/zero")
    refused(copied, "more.json is no regular file")
    extra.unlink()
    with extra.open("wb") as file:
        file.truncate(1 << 40)
    refused(copied, "more.json has 1,099,511,627,776 bytes; at most")
    extra.unlink()
    os.mkfifo(folder / "more.safetensors")
    refused(copied, "more.safetensors")


def test_weights_that_the_model_does_not_use(copied):
    sparse(copied / "more.safetensors")
    refused(copied, "weights .* have 10,737,.* numbers, the model of its config.json .*: remove those")


def test_a_tower_with_one_more_tensor(tmp_path):
    folder = shutil.copytree(model_folder("random"), tmp_path / "smol")
    weights = load_file(folder / "vision.safetensors")
    save_file({**weights, "more": torch.zeros(4)}, folder / "vision.safetensors")
    size = (folder / "vision.safetensors").stat().st_size
    edited(folder / "config.json", lambda content: content["sizes"].update({"vision.safetensors": size}))
    refused(folder, "can't be read as the tower's weights")


def test_the_tokenizer_of_a_q_former_is_vetted(tiny_blip):
    folder = tiny_blip("instructblip", "opt")
    assert {path.parent.name for path in deciding_files(folder)} == {folder.name, "qformer_tokenizer"}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json", "processor_config.json"])
def test_no_key_steers_the_terminal(copied, file, capfd):
    """tokenizers prints unknown keys of a token to file descriptor 1."""
    token = {"id": 4, "content": "</s>", ESCAPE: 1}
    changes = {
        "tokenizer_config.json": lambda content: content.update(added_tokens_decoder={"4": token}),
        "tokenizer.json": lambda content: content["added_tokens"][0].update({ESCAPE: 1}),
        "processor_config.json": lambda content: content.update({ESCAPE: 1}),
    }
    edited(copied / file, changes[file])
    refused(copied, "has control characters")
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "evil/kernel"),
        ("_attn_implementation", "evil/kernel@main:name"),
        ("attn_implementation", {"text_config": "paged|evil/kernel"}),
        ("experts_implementation", "evil/kernel"),
        ("architecture", "hf-hub:evil/model"),
        ("backbone", "evil/model"),
        ("quantization_config", {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4Config"}}}),
        ("transformers_weights", "part/model.safetensors"),
    ],
)
def test_no_key_of_a_configuration_leads_elsewhere(copied, part, key, value):
    edited(copied / "config.json", lambda content: (content[part] if part else content).update({key: value}))
    for load in (lambda: refuse_unbounded(copied), lambda: load_on_paper(str(copied))):
        with pytest.raises(UserError, match="config.json"):
            load()


def test_a_processor_names_no_other_model(copied):
    elsewhere = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "evil/model"}
    before = (copied / "processor_config.json").read_bytes()
    edited(copied / "processor_config.json", lambda content: content.update(audio_tokenizer=elsewhere))
    refused(copied, "'audio_tokenizer' is not supported")
    (copied / "processor_config.json").write_bytes(before)
    (copied / "audio_tokenizer_config.json").write_text(json.dumps(elsewhere))
    refused(copied, "audio_tokenizer_config.json, which names another model")


def test_an_attention_that_is_not_installed_is_no_obstacle(copied):
    edited(copied / "config.json", lambda content: content.update(attn_implementation="flash_attention_2"))
    assert load_lmm(str(copied), dtype="float32", device=torch.device("cpu"))
    assert load_on_paper(str(copied))

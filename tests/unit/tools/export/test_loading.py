"""An exported stage in the hands of transformers and peft alone, from another working directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModel, AutoPeftModelForCausalLM, PeftModel
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from evertune import Learner
from evertune.models import load_lmm, model_folder
from evertune.models.presets import HUB_IDS, PRESETS
from evertune.runs.api import config_of
from evertune.tools.export import export
from evertune.tools.export.base import Base, base_of
from evertune.tools.export.card import OF_PEFT, OF_TRANSFORMERS, _metadata
from evertune.utils.errors import UserError

QUESTIONS = ("what is this?", "which colour?", "how many?")
LONGEST = 6


def images():
    choose = torch.Generator().manual_seed(5)
    noise = torch.randint(0, 256, (len(QUESTIONS), 40, 40, 3), generator=choose, dtype=torch.uint8).numpy()
    return [Image.fromarray(image) for image in noise]


def asked(folder, stage):
    """What `evertune ask` predicts."""
    learner = Learner.from_run(folder, progress=False)
    learner.load(stage)
    features = torch.stack(list(learner.lmm.encode(images())))
    return [str(text) for text in learner.lmm.generate(features, QUESTIONS, max_new_tokens=LONGEST)]


def generated(model, processor, end):
    """What the library's own classes predict, from pixels."""
    found = []
    for question, image in zip(QUESTIONS, images(), strict=True):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False, eos_token_id=end, pad_token_id=end)
        new = made[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    return found


def end_of(folder):
    return load_lmm(config_of(folder).model, dtype="float32").prompts.end


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["lora", "projection+lora", "full", "projection"])
def test_transformers_alone_predicts_what_ask_predicts(scope, finished, tmp_path, monkeypatch):
    folder = finished("llava", "sequential", f"model_options.scope={scope}")
    export(folder, tmp_path / "out", stage=2)
    wanted = asked(folder, 2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoModelForImageTextToText.from_pretrained("../out", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained("../out")
    assert generated(model, processor, model.generation_config.eos_token_id) == wanted != asked(folder, 0)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llava", "gemma3"])
@pytest.mark.parametrize("scope", ["lora", "projection+lora"])
def test_peft_alone_predicts_what_ask_predicts(model, scope, finished, tmp_path, monkeypatch):
    folder = finished(model, "sequential", f"model_options.scope={scope}")
    export(folder, tmp_path / "out", adapters=True, stage=2)
    wanted, end = asked(folder, 2), end_of(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # peft looks on the hub for a tokenizer
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    base = json.loads(Path("../out/adapter_config.json").read_text())["base_model_name_or_path"]
    processor = AutoProcessor.from_pretrained(base)
    for auto in (AutoPeftModel, AutoPeftModelForCausalLM):
        assert generated(auto.from_pretrained("../out", dtype=torch.float32), processor, end) == wanted
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert generated(PeftModel.from_pretrained(plain, "../out"), processor, end) == wanted != asked(folder, 0)


@pytest.mark.slow
def test_of_smol_the_lm_loads_and_the_projector_is_said_to_be_beside_it(finished, tmp_path, monkeypatch):
    """It is no class of transformers: the card says so, and what loads is the LM with its adapter, or merged."""
    folder = finished("random")
    export(folder, tmp_path / "whole")
    export(folder, tmp_path / "stages", adapters=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path / "whole")
    merged = AutoModelForCausalLM.from_pretrained(".", subfolder="lm", dtype=torch.float32)
    tuned = AutoPeftModelForCausalLM.from_pretrained("../stages/03-task-2", dtype=torch.float32)
    words = torch.arange(3, 13)[None]
    with torch.no_grad():
        torch.testing.assert_close(tuned(words).logits, merged(words).logits, rtol=1e-4, atol=1e-4)
    whole, stages = (ModelCard.load(tmp_path / name / "README.md") for name in ("whole", "stages"))
    assert whole.data.library_name == "evertune" and "no class of `transformers`" in whole.text
    assert stages.data.library_name == "peft" and 'FOLDER, subfolder="03-task-2"' in stages.text
    assert "FOLDER)" in ModelCard.load(tmp_path / "stages" / "03-task-2" / "README.md").text
    plain = AutoModelForCausalLM.from_pretrained(base_of("random").name, dtype=torch.float32)
    again = PeftModel.from_pretrained(plain, tmp_path / "stages", subfolder="03-task-2")
    assert torch.equal(again(words).logits, tuned(words).logits)
    assert "`projector.safetensors`" in stages.text


@pytest.mark.parametrize("adapters", [False, True])
def test_the_metadata_of_a_card(adapters, finished, tmp_path):
    export(finished("llava"), tmp_path / "out", adapters=adapters, stage=1)
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert data.pop("tags") == ["continual-learning", "evertune", *(["lora"] if adapters else [])]
    assert data == {"library_name": "peft" if adapters else "transformers", "pipeline_tag": "image-text-to-text"}, (
        "a folder is no base_model on the hub, and its licence is not known"
    )


@pytest.mark.parametrize(
    ("base", "licence", "expected"),
    [
        ("llava-hf/llava-1.5-7b-hf", "Llama 2 Community", "llama2"),
        ("a/b", "Apache-2.0 (both)", "apache-2.0"),
        ("a/b", "Apache-2.0; trained on drawings", "apache-2.0"),
        ("a/b", "MIT (OPT: its own)", "other"),
        ("/models/mine", None, None),
    ],
)
def test_base_model_and_license_of_a_card(base, licence, expected):
    card = ModelCard(f"---\n{_metadata(Base(base, False), OF_TRANSFORMERS, licence)}\n---\n")
    assert card.data.base_model == (None if base.startswith("/") else base) and card.data.license == expected


def test_every_licence_of_a_preset_has_an_identifier():
    for about in PRESETS.values():
        _metadata(Base("a/b", False), OF_PEFT, about["licence"]).index("license: ")


def test_how_others_load_the_base_model(tmp_path, monkeypatch):
    """A hub id stays one; a folder is absolute; `smol` is its LM, by its id where the weights are the hub's."""
    hub_id = HUB_IDS["SmolVLM-256M-Instruct"]
    cached = tmp_path / "hub" / "models--HuggingFaceTB--SmolVLM-256M-Instruct" / "snapshots" / "0123"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text('{"model_type": "idefics3"}')
    monkeypatch.setattr("evertune.models.hub.hub_folder", lambda name: cached)
    assert base_of(hub_id) == base_of(str(cached)) == Base(hub_id, False)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text('{"model_type": "llava"}')
    monkeypatch.chdir(tmp_path)
    assert base_of("mine") == base_of("./mine") == Base(str(mine), False) and base_of("mine").hub_id is None
    assert base_of("random") == Base(str(model_folder("random") / "lm"), True)
    (mine / "config.json").write_text('{"family": "smol", "origin": "HuggingFaceTB/SmolLM2-135M-Instruct"}')
    assert base_of("mine") == Base("HuggingFaceTB/SmolLM2-135M-Instruct", True)
    assert base_of("mine", given="a/b") == Base("a/b", True)
    with pytest.raises(UserError, match="it is '../mine'"):
        base_of("mine", given="../mine")


def test_an_adapter_is_of_a_stage_that_there_is(finished, tmp_path):
    for stage, message in ((0, "stage 0 is the base model"), (9, "no stage 9")):
        with pytest.raises(UserError, match=message):
            export(finished("random"), tmp_path / "out", adapters=True, stage=stage)
    with pytest.raises(UserError, match="leave expert out"):
        export(finished("random"), tmp_path / "out", adapters=True, expert="a")
    with pytest.raises(UserError, match="give adapters=True too"):
        export(finished("random"), tmp_path / "out", base_model="a/b")
    assert not list(tmp_path.iterdir())

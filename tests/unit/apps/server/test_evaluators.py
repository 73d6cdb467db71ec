"""The requests that lmms-eval and VLMEvalKit send, to each stage: the replies are those of `ask`.

The chat form was recorded from lmms-eval 0.7.3 (`--model openai`); the others follow the kits' sources
(lmms_eval/models/simple/openai.py, vlmeval/api/gpt.py, vlmeval/api/lmdeploy.py). Neither kit is a package of the tests.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from PIL import Image
from serving import running

from evertune.apps.server.command import serve
from evertune.service.service import Service

EXAMPLE = Path(__file__).parents[4] / "examples" / "lmms_eval"


def encoded(sample, kind):
    held = io.BytesIO()
    with Image.open(sample.images[0]) as opened:
        opened.convert("RGB").save(held, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return base64.b64encode(held.getvalue()).decode()


def lmms_eval(sample, model):
    """`OpenAICompatible.generate_until`, through OpenAI's client."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(sample, 'PNG')}"}}
    content = [{"type": "text", "text": sample.instruction}, image]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
    }


def lmms_eval_chat(sample, model):
    """Its chat class, as recorded: the image first; and values that a task may add for greedy decoding."""
    whole = lmms_eval(sample, model)
    whole["messages"][0]["content"].reverse()
    return {**whole, "temperature": 0.0, "top_p": 1.0, "seed": 0, "n": 1}


def gpt4v(sample, model):
    """VLMEvalKit's `OpenAIWrapper.generate_inner`: `detail` is always there."""
    struct = {"url": f"data:image/jpeg;base64,{encoded(sample, 'PNG')}", "detail": "low"}
    content = [{"type": "image_url", "image_url": struct}, {"type": "text", "text": sample.instruction}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "n": 1,
        "temperature": 0,
        "max_tokens": 8,
    }


def lmdeploy(sample, model):
    """VLMEvalKit's `LMDeployWrapper.generate_inner`, with a system prompt that is empty."""
    whole = gpt4v(sample, model)
    del whole["messages"][0]["content"][0]["image_url"]["detail"]
    return {**whole, "messages": [{"role": "system", "content": ""}, *whole["messages"]], "temperature": 0.0}


KITS = {"lmms-eval": lmms_eval, "lmms-eval chat": lmms_eval_chat, "VLMEvalKit": gpt4v, "VLMEvalKit lmdeploy": lmdeploy}


@pytest.fixture(scope="module")
def address(colours):
    with running(serve(colours, port=0, tokens=8)) as url:
        yield url


@pytest.fixture(scope="module")
def wanted(colours):
    """What `ask` predicts at each stage, by model name and sample."""
    service, found = Service.open(colours), {}
    samples = [task.test[0] for task in service.tasks]
    for name, stage in (("colours:base", 0), ("colours:1", 1), ("colours:2", 2), ("colours", 2)):
        service.learner.load(stage)
        for sample in samples:
            text = service.learner.ask(sample.images, sample.instruction, max_new_tokens=8).text
            found.setdefault(name, []).append((sample, text))
    return found


def post(address, body, key):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
    return json.loads(urllib.request.urlopen(request).read())


@pytest.mark.parametrize("kit", KITS)
def test_each_stage_is_evaluated_by_each_kit(kit, address, wanted):
    for name, samples in wanted.items():
        for sample, text in samples:
            reply = post(address, KITS[kit](sample, name), "sk-none")
            assert reply["choices"][0]["message"]["content"] == text and reply["model"] == name
    assert len({text for samples in wanted.values() for _, text in samples}) > 2, "stages that differ"


def test_the_first_model_of_the_list_is_the_last_stage(address):
    """LMDeployWrapper takes it."""
    found = json.loads(urllib.request.urlopen(f"{address.split('v1')[0]}/v1/models").read())
    assert found["data"][0]["id"] == "colours"


def test_the_fields_of_a_reasoning_model_are_refused_in_words(address, wanted):
    """What both kits send where `o1` or `o3` is in a model's name."""
    sample, _ = wanted["colours"][0]
    body = {**lmms_eval(sample, "colours"), "reasoning_effort": "medium"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(address, body, "none")
    assert caught.value.code == 400 and "reasoning_effort" in json.loads(caught.value.read())["error"]["message"]


def test_the_example_of_a_task(tmp_path, monkeypatch):
    """Its YAML names functions that there are, and they read the rows of `examples/photographs.py`."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    sys.modules.pop("photographs", None)
    import photographs

    yaml.SafeLoader.add_constructor("!function", lambda loader, node: getattr(photographs, node.value.split(".")[1]))
    task = yaml.safe_load((EXAMPLE / "photographs.yaml").read_text())
    del yaml.SafeLoader.yaml_constructors["!function"]
    (tmp_path / "my-photos").mkdir()
    Image.new("RGB", (4, 3), "red").save(tmp_path / "my-photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    row = {"image": "a.png", "instruction": "What is this?", "answer": "red"}
    assert task["doc_to_visual"](row)[0].size == (4, 3) and task["doc_to_text"](row) == "What is this?"
    assert task["process_results"](row, [" red\n"]) == {"exact_match": 1.0}
    assert task["process_results"](row, ["reddish"]) == {"exact_match": 0.0}

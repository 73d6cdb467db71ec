"""System prompts and earlier turns: read as the model's own template has them, or refused; images of any shape."""

from __future__ import annotations

import base64
import io

import openai
import pytest
import torch
from chat_models import load, of_library
from PIL import Image
from serving import client, message, running
from tiny_chat import FAMILIES

from evertune import service
from evertune.apps.server.command import serve
from evertune.data import Sample
from evertune.models.protocol import Turn
from evertune.models.readable import refuse_unreadable
from evertune.service.service import Service
from evertune.utils.errors import DataError, UserError

SIZES = [(48, 48), (33, 70)]
CONTEXT = (
    Turn("system", "Be brief."),
    Turn("user", "What is on the left?", 1),
    Turn("assistant", "A hat."),
)


def image(width, height, colour="red"):
    return Image.new("RGB", (width, height), colour)


def url_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"paligemma"}))
def test_a_dialogue_is_that_of_the_library(name, tiny_chat):
    lmm = load(tiny_chat(name))
    _, processor = of_library(tiny_chat(name))
    sizes = SIZES if 2 in lmm.images_per_sample else SIZES[1:]
    context = [turn._replace(images=turn.images * (len(sizes) - 1)) for turn in CONTEXT]
    images = [image(width, height) for height, width in sizes]
    turns = [*context, Turn("user", "And on the right?", 1)]
    content = [
        {"role": role, "content": [*({"type": "image"} for _ in range(count)), {"type": "text", "text": text}]}
        for role, text, count in turns
    ]
    text = processor.tokenizer.apply_chat_template(
        content, chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
    )
    special = {"add_special_tokens": False} if text.startswith("<s>") else {}
    theirs = processor(text=[text], images=[images], return_tensors="pt", **special).input_ids[0].tolist()
    ours, _ = lmm.prompts.ids("And on the right?", None, sizes, context)
    assert ours == theirs
    assert lmm.lengths("And on the right?", "", sizes, context)[-1].tokens == len(theirs) + lmm.answer_tokens("")
    alone, _ = lmm.prompts.ids("And on the right?", None, SIZES[1:])
    assert alone != ours, "remembered by all that decides it"


def test_a_dialogue_decides_what_is_predicted(tiny_chat):
    lmm = load(tiny_chat("qwen2_vl"))
    features = torch.nn.utils.rnn.pad_sequence(lmm.encode([image(48, 48)]), batch_first=True)

    def predicted(*context):
        made = lmm.generate(features, ["What is it?"], max_new_tokens=6, context=context)
        return made[0].ids

    assert len({predicted(), predicted(Turn("system", "Be brief.")), predicted(Turn("system", "In French."))}) > 1


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_control_tokens_in_earlier_turns_are_refused(role, tiny_chat):
    """A system prompt could end its own turn and begin another's."""
    lmm = load(tiny_chat("qwen2_vl"))
    sample = Sample("1", (), "what?", ())
    context = (*CONTEXT[:1], Turn("user", "hat?", 0), Turn("assistant", "yes", 0))
    refuse_unreadable(sample, lmm, [], context)
    context = tuple(turn._replace(text=turn.text + "<|im_end|>") if turn.role == role else turn for turn in context)
    with pytest.raises(DataError, match=r"the turn holds '<\|im_end\|>', which .* reads as a control token"):
        refuse_unreadable(sample, lmm, [], context)


def test_families_without_a_template_refuse(lmm, tiny_chat, mini_blip):
    from evertune.models import load_lmm

    blip = load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))
    for family in (lmm, blip, load(tiny_chat("paligemma"))):
        with pytest.raises(UserError, match="reads single questions: leave out the system prompt"):
            family.lengths("what?", "", SIZES[:1], CONTEXT[:1])


def test_a_template_that_refuses_or_drops_a_turn(tiny_chat, monkeypatch):
    prompts = load(tiny_chat("qwen2_vl")).prompts
    whole = prompts.inner.chat_template
    monkeypatch.setattr(prompts.inner, "chat_template", "{%- set messages = messages[1:] -%}" + whole)
    with pytest.raises(UserError, match="leaves out this turn of the system"):
        prompts.prompt("what?", context=CONTEXT[:1])
    strict = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif -%}"
    monkeypatch.setattr(prompts.inner, "chat_template", strict + whole)
    with pytest.raises(UserError, match="no system role"):
        prompts.prompt("what?", context=CONTEXT[:1])


@pytest.fixture(scope="module")
def qwen(tiny_chat, tmp_path_factory):
    """A chat model that is served, and what it is made of."""
    folder = tmp_path_factory.mktemp("chat") / "qwen"
    service.new(folder, model=str(tiny_chat("qwen2_vl")), method="replay", settings=["dtype=float32"])
    with running(serve(folder, port=0, tokens=4)) as url:
        yield client(url).chat.completions.create, Service.open(folder).learner.lmm


def test_the_endpoint_reads_a_dialogue(qwen):
    ask, lmm = qwen
    (last,) = message("And on the right?", url_of(image(70, 33)))
    (first,) = message("What is on the left?", url_of(image(48, 48)))
    before = [{"role": "system", "content": "Be brief."}, first, {"role": "assistant", "content": "A hat."}]
    reply = ask(model="qwen", messages=[*before, last])
    features = torch.nn.utils.rnn.pad_sequence(lmm.encode([image(48, 48), image(70, 33)]), batch_first=True)
    (wanted,) = lmm.generate(features, ["And on the right?"], max_new_tokens=4, images=[2], context=CONTEXT)
    assert reply.choices[0].message.content == wanted
    assert reply.usage.prompt_tokens == len(lmm.prompts.ids("And on the right?", None, SIZES, CONTEXT)[0])
    again = reply.choices[0].message.model_dump()  # as clients hand it back
    assert ask(model="qwen", messages=[*before, last, {**again, "content": "A cat."}, last]).choices
    developer = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *before[1:]]
    assert ask(model="qwen", messages=[*developer, last]).choices[0].message.content == wanted


def test_a_family_of_single_questions_refuses_a_dialogue(colours):
    with running(serve(colours, port=0, tokens=4)) as url:
        ask = client(url).chat.completions.create
        question = message("which colour?", url_of(image(20, 20)))
        for before in ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(model="colours", messages=[before, *question])
            assert "random reads single questions: leave out the system prompt" in caught.value.body["message"]
        assert ask(model="colours", messages=[{"role": "system", "content": " "}, *question]).choices


def test_an_image_that_a_model_cannot_prepare(colours, qwen):
    """A ruled line cut from a page."""
    with running(serve(colours, port=0, tokens=4)) as url:
        for ask, name in ((client(url).chat.completions.create, "colours"), (qwen[0], "qwen")):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(model=name, messages=message("hi", url_of(image(900, 1))))
            assert caught.value.body["message"].startswith("an image of 900 x 1 pixels can't be prepared for the model")
            assert ask(model=name, messages=message("hi", url_of(image(40, 40)))).choices, "it goes on"

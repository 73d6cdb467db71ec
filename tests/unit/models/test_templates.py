"""Chat templates as they are published: where a prompt ends, what is trained, and what a prediction is.

The forms are those of Gemma-3, Qwen2-VL, Qwen3-VL (Thinking and not), SmolVLM, LLaVA-NeXT (Mistral) and Llama-2, and of
a distilled DeepSeek-R1, whose generation prompt opens a block that no turn of a dialogue has.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from chat_models import load
from PIL import Image
from tiny_chat import MARKED

from evertune.data.task import Sample
from evertune.metrics.reasoning_tags import without_thoughts
from evertune.metrics.rules import rule_of, score_cell
from evertune.models.decoder import IGNORE

ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}{% endfor %}"
)
CONTENT = (
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}" + ALTERNATE + "{% for m in messages %}{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    + CONTENT.replace("IMAGE", "<boi>")
    + "{{ '</s>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    ALTERNATE
    + "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    + CONTENT.replace("'IMAGE'", "'<image>\n'")
    + "{{ ' [/INST]' }}{% else %}{{ ' ' }}"
    + CONTENT
    + "{{ '</s> ' }}"
    "{% endif %}{% endfor %}"
)
LLAMA = (
    ALTERNATE + "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first %}"
    "{{ '<<SYS>>\nBe helpful, honest.\n<</SYS>>\n\n' }}{% endif %}"
    + CONTENT.replace("IMAGE", "<image>")
    + "{{ ' [/INST]' }}{% else %}{{ ' ' }}"
    + CONTENT
    + "{{ ' ' + eos_token }}{% endif %}{% endfor %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    + CONTENT.replace("IMAGE", "<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    + CONTENT.replace("IMAGE", VISION)
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ASKED = f"<|im_start|>user\n{VISION}which?<|im_end|>\n<|im_start|>assistant\n".replace("<|image_pad|>", "{image}")
TOLD = "{% if m['role'] == 'assistant' and loop.last %}{{ 'THOUGHTS' }}{% endif %}"


def thinking(opened, closed):
    """Qwen3-VL's: the generation prompt ends with `opened`, a last told turn begins with `told`."""
    made = MARKED.replace("IMAGE", VISION).replace("assistant\n", "assistant\n" + opened)
    return made.replace("{% for c in m['content'] %}", TOLD.replace("THOUGHTS", closed) + "{% for c in m['content'] %}")


CLOSED = "<think>\n\n</think>\n\n"
SHAPES = {
    "gemma3": ("gemma3", GEMMA, "<s><start_of_turn>user\n{image}which?</s>\n<start_of_turn>model\n", "red</s>"),
    "mistral": ("llava_next", MISTRAL, "[INST] {image}\nwhich? [/INST]", " red</s>"),
    "llama-2": (
        "llava",
        LLAMA,
        "<s>[INST] <<SYS>>\nBe helpful, honest.\n<</SYS>>\n\n{image}which? [/INST]",
        " red</s>",
    ),
    "smolvlm": (
        "smolvlm",
        SMOLVLM,
        "<|im_start|>User:{image}which?<end_of_utterance>\nAssistant:",
        " red<end_of_utterance>",
    ),
    "qwen2-vl": ("qwen2_vl", QWEN, SYSTEM + ASKED, "red<|im_end|>"),
    "qwen3-vl-thinking": ("qwen3_vl", thinking("<think>\n", CLOSED), ASKED + CLOSED, "red<|im_end|>"),
    "qwen3": ("qwen3_vl", thinking("", CLOSED), ASKED + CLOSED, "red<|im_end|>"),
    "deepseek-r1": ("qwen3_vl", thinking("<think>\n", ""), ASKED, "red<|im_end|>"),
    "another block": ("qwen3_vl", thinking("<think>\n", "<answer>"), ASKED + "<answer>", "red<|im_end|>"),
}


@pytest.fixture(params=SHAPES)
def shaped(request, tmp_path, tiny_chat):
    """A miniature with a published template, and what its prompt and its labels are."""
    family, template, prompt, labelled = SHAPES[request.param]
    folder = shutil.copytree(tiny_chat(family), tmp_path / family)
    (folder / "chat_template.jinja").write_text(template)
    end = json.loads((folder / "generation_config.json").read_text())
    ends = ["</s>", "<|im_end|>", "<end_of_utterance>"]
    tokens = load(tiny_chat(family)).prompts.tokenizer.convert_tokens_to_ids(ends)
    end["eos_token_id"] = [token for token in tokens if token is not None]
    (folder / "generation_config.json").write_text(json.dumps(end))
    return load(folder), prompt, labelled


def test_where_a_prompt_ends_and_what_is_trained(shaped):
    """The same prompt stands before an answer in training and in generation; nothing of the template is trained."""
    lmm, prompt, labelled = shaped
    assert lmm.prompt("which?") == prompt
    features = torch.stack(list(lmm.encode([Image.new("RGB", (56, 56), "red")])))
    batch = lmm.collate([Sample("1", ("none.png",), "which?", ("red",))], features)
    decode = lmm.prompts.tokenizer.decode
    assert decode(batch.labels[batch.labels != IGNORE]) == labelled
    prompt_ids, _ = lmm.prompts.ids("which?", None, [(56, 56)])
    assert batch.input_ids[0, : (batch.labels[0] == IGNORE).sum()].tolist() == prompt_ids
    assert decode(prompt_ids).endswith(prompt.rpartition("{image}")[2])


def test_what_was_cached_with_another_lead_is_not_reused(tiny_chat):
    """A lead was part of the answer once: predictions in the cache, of the same weights, would still begin with it."""
    lmm = load(tiny_chat("qwen3_vl"))
    before = lmm.fingerprint
    lmm.prompts._lead = CLOSED
    assert lmm.fingerprint != before


def test_an_answer_is_counted_without_the_lead(shaped):
    lmm, _, labelled = shaped
    ids = lmm.prompts.tokenizer(labelled, add_special_tokens=False).input_ids
    assert lmm.answer_tokens("red") == len(ids)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}" + CONTENT.replace("IMAGE", "<image>") + "{{ '</s>' }}{% endfor %}",
        ALTERNATE + "{% for m in messages %}{{ '[INST]' }}" + CONTENT.replace("IMAGE", "<image>") + "{% endfor %}",
    ],
    ids=["an end", "one mark for both"],
)
def test_templates_without_roles_are_refused(template, tmp_path, tiny_chat):
    folder = shutil.copytree(tiny_chat("llava"), tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match="has no roles"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("red", "red"),
        ("<think>\nIt is blue? No.\n</think>\n\nred", "red"),
        ("It is blue? No.\n</think>\n\nred", "red"),  # the template has opened the block
        ("<think></think>red", "red"),
        ("<think>a</think>b<think>c</think> red ", "red"),
        ("<think>It is blue?", "<think>It is blue?"),  # cut off: nothing behind it
        ("<think>red</think>", ""),
        ("I think red", "I think red"),
    ],
)
def test_thoughts_are_no_part_of_a_prediction(text, answer):
    assert without_thoughts(text) == answer


def test_thoughts_in_predictions_and_gold_answers_are_not_compared():
    thought, other = "<think>It is blue?</think>\n\n", "<think>It is green.</think>"
    cell = score_cell(
        rule_of("exact"), [thought + "red", "red", "red", thought + "blue"], [["red"], [other + "red"]] * 2
    )
    assert cell.strict == 75 and cell.each == [1, 1, 1, 0]
    assert score_cell(rule_of("exact"), ["<think>red</think>"], [["red"]]).strict == 0


def test_a_model_that_thinks_predicts_its_answer(tiny_chat, monkeypatch):
    lmm = load(tiny_chat("qwen3_vl"))
    tokenizer, end = lmm.prompts.tokenizer, lmm.prompts.end
    new = [*tokenizer("<think>blue?</think>\n\nred", add_special_tokens=False).input_ids, end]
    monkeypatch.setattr(lmm.model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([new])], 1))
    (predicted,) = lmm.generate(torch.zeros(0, 1, 32), ["which?"], max_new_tokens=40, images=[0])
    assert predicted == "red" and list(predicted.ids) == new and predicted.finished


def test_an_answer_ends_at_the_first_end_token_behind_it(tmp_path, tiny_chat):
    """Both are ends for the checkpoint, and the template writes both."""
    folder = shutil.copytree(tiny_chat("qwen2_vl"), tmp_path / "two")
    (folder / "chat_template.jinja").write_text(MARKED.replace("IMAGE", VISION).replace("<|im_end|>", "<|im_end|></s>"))
    generation = json.loads((folder / "generation_config.json").read_text())
    tokens = load(folder).prompts.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": tokens}))
    assert load(folder).prompts.end == tokens[1]

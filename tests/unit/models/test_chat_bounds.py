"""Chat templates, configurations and tokenizers of strangers: bounded in time and memory, one clear line each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
import test_templates
import torch
import warm
from tiny_chat import FAMILIES
from transformers.utils.chat_template_utils import _cached_compile_jinja_template

from evertune.models import load_lmm, load_on_paper, model_folder, templates
from evertune.models.compat import processor_of
from evertune.models.file_bounds import refuse_config, refuse_unbounded
from evertune.models.presets import CONFIGS
from evertune.models.template_worker import Generation, environment
from evertune.models.templates import render
from evertune.models.text_encoder import load_text_encoder
from evertune.utils.errors import UserError

IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "What is 7? ünï 𝔘 \n</s>"}
TURNS = [{"role": "user", "content": [IMAGE, TEXT]}, {"role": "assistant", "content": [TEXT]}]
DIALOGUES = [
    [{"role": "user", "content": [TEXT]}],
    TURNS[:1],
    TURNS,
    [*TURNS, *TURNS],
    [{"role": "system", "content": [TEXT]}, *TURNS],
    [{"role": "user", "content": [IMAGE, IMAGE, TEXT]}],
]
PUBLISHED = [
    value for name, value in vars(test_templates).items() if name.isupper() and isinstance(value, str) and "{%" in value
]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
MACRO = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"
TREE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
HOSTILE = {
    "loops": (LOOPS, "takes more than"),
    "doubling": (DOUBLING, "takes more than|needs too much memory"),
    "division": ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
    "recursion": (MACRO, "RecursionError"),
    "tree": (TREE, "takes more than"),
    "power, folded when it is compiled": ("{{ 10 ** (10 ** 10) }}", "takes more than|needs too much memory"),
    "power": ("{% set n = messages | length + 9 %}{{ n ** (n ** n) }}", "takes more than|needs too much memory"),
    "format": ("{{ '%9999999999d' % (messages | length) }}", "takes more than|needs too much memory|OverflowError"),
    "centred": ("{{ 'a' | center(9999999999) }}", "takes more than|needs too much memory"),
    "list": ("{{ [messages] * 9999999999 }}", "takes more than|needs too much memory"),
    "long": ("{{ 'a' * 9999999 }}", r"makes more than \d+,\d+ characters of these messages"),
    "nesting": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
    "blocks": ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "RecursionError|SyntaxError|IndentationError|too many"),
    "type": ("{{ messages + 1 }}", "TypeError"),
    "attribute": ("{{ messages.append(1) }}", "unsafe"),
    "class": ("{{ ''.__class__.__mro__ }}", "__class__|__mro__|unsafe|access"),
    "private": ("{% set n = namespace() %}{% set n._x = 1 %}", "'_x'"),
}


@pytest.fixture
def copied(tiny_chat, tmp_path):
    """A copy of a miniature that may be broken."""

    def copy(name="llava"):
        return shutil.copytree(tiny_chat(name), tmp_path / name)

    return copy


@pytest.fixture
def hurried(monkeypatch):
    """One second of CPU time instead of five."""
    monkeypatch.setattr(templates, "CPU_SECONDS", 1.0)
    templates.renderer().close()
    yield
    templates.renderer().close()


def refused(load, match, *, seconds=100.0):
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - start < seconds


def load(folder):
    return load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))


# Templates


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("hurried")
def test_a_template_without_end_is_one_line(name):
    template, says = HOSTILE[name]
    refused(lambda: render(template, {"messages": TURNS}), f"^the model's chat template can't be used: .*({says})")
    assert render("{{ messages | length }}", {"messages": TURNS}) == "2", "the next one is rendered"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loops", "division", "doubling"])
@pytest.mark.usefixtures("hurried")
def test_a_model_with_such_a_template_is_refused(copied, name):
    folder = copied()
    (folder / "chat_template.jinja").write_text(HOSTILE[name][0])
    refused(lambda: load(folder), "the model's chat template can't be used", seconds=200)


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_template_that_branches_on_a_later_question(copied):
    """It is harmless when the model is loaded."""
    folder = copied()
    file = folder / "chat_template.jinja"
    trap = "{% if 'now' in messages[-1]['content'][-1]['text'] %}" + LOOPS + "{% endif %}"
    file.write_text(trap + file.read_text())
    lmm = load(folder)
    refused(lambda: lmm.prompts.prompt("and now?"), "can't be used: it takes more than 1 s", seconds=200)
    assert "what?" in lmm.prompts.prompt("what?")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ask", [False, True])
def test_prompts_are_those_of_the_library(name, ask, tiny_chat):
    """Our environment against `apply_chat_template` of the installed transformers, for each kind of dialogue."""
    from transformers import AutoConfig

    processor = processor_of(tiny_chat(name), AutoConfig.from_pretrained(tiny_chat(name)))
    token = processor.tokenizer
    known = [processor.chat_template] if processor.chat_template else []
    extra = "{{ messages | tojson(indent=1) }}{{ dict(a=1) }}{% generation %}{% set a = 1 %}x{% endgeneration %}{{ a }}"
    for template in (*known, *PUBLISHED, extra):
        for turns in DIALOGUES:
            try:
                wanted = token.apply_chat_template(
                    turns, chat_template=template, add_generation_prompt=ask, tokenize=False
                )
            except Exception as problem:
                wanted = problem
            values = {**token.special_tokens_map, "messages": turns, "add_generation_prompt": ask}
            try:
                found = render(template, {**values, "tools": None, "documents": None})
            except UserError as problem:
                assert isinstance(wanted, Exception) and str(wanted) in str(problem)
            else:
                assert found == wanted


def test_the_environment_is_that_of_the_installed_transformers():
    theirs, ours = _cached_compile_jinja_template("x").environment, environment()
    assert theirs.sandboxed and ours.sandboxed and type(ours) is type(theirs)
    for table in ("globals", "filters", "tests"):
        assert getattr(ours, table).keys() == getattr(theirs, table).keys()
    assert [one.rpartition(".")[2] for one in ours.extensions] == [Generation.__name__, "LoopControlExtension"]
    assert {one.rpartition(".")[2] for one in theirs.extensions} == {"AssistantTracker", "LoopControlExtension"}
    assert ours.trim_blocks and theirs.trim_blocks and ours.lstrip_blocks and theirs.lstrip_blocks
    assert ours.intercepted_binops == theirs.intercepted_binops == frozenset(), "nothing in jinja2 bounds a power"


@pytest.mark.slow
def test_the_worker_imports_no_library_but_jinja2():
    code = (
        "import runpy, sys; sys.argv = ['x', '1', '1', str(1 << 30)]; sys.stdin = iter([]);"
        f"runpy.run_path({str(templates.WORKER)!r}, run_name='__main__');"
        "print({'torch', 'numpy', 'transformers', 'evertune'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True).strip() == "set()"


@pytest.mark.slow
def test_the_worker_survives_signals_threads_and_forks_and_ends_with_its_parent():
    assert render("1", {"messages": []}) == "1"
    worker = templates.renderer()._process
    worker.terminate()
    worker.send_signal(2)
    found = []

    def ask(number):
        found.append(render("{{ messages }}", {"messages": [number]}) == f"[{number}]")

    threads = [Thread(target=ask, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [True] * 20 and templates.renderer()._process is worker
    child = os.fork()
    if not child:
        os._exit(0 if render("2", {"messages": []}) == "2" else 1)
    assert os.waitpid(child, 0)[1] == 0
    worker.kill()
    worker.wait()
    assert render("3", {"messages": []}) == "3", "another one is started"
    code = (
        "import os\nfrom evertune.models import templates\ntemplates.render('1', {'messages': []})\n"
        "print(templates.renderer()._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([warm.python(), "-c", code], check=False, stdout=subprocess.PIPE, text=True)
    left = Path("/proc") / killed.stdout.strip()
    until = time.monotonic() + 20
    while time.monotonic() < until and left.exists():
        time.sleep(0.05)
    assert not left.exists()


@pytest.mark.slow
def test_an_interrupted_prompt_leaves_no_reply_for_the_next_one():
    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    render("1", {"messages": []})
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            render(LOOPS, {"messages": []})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert render("2", {"messages": []}) == "2"


# Configurations, processors, tokenizers


def edited(file, *keys, value):
    content = json.loads(file.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(content))


LARGE = [
    (
        "config.json",
        ("text_config", "num_hidden_layers"),
        10**7,
        "'text_config.num_hidden_layers' is 10,000,000; at most",
    ),
    ("config.json", ("vision_config", "num_hidden_layers"), 2000, "'vision_config.num_hidden_layers' is 2,000"),
    ("config.json", ("text_config", "vocab_size"), 10**12, "'text_config.vocab_size' is 1,000,000,000,000"),
    ("config.json", ("text_config", "hidden_size"), 10**9, "'text_config.hidden_size' is 1,000,000,000"),
    ("config.json", ("num_labels",), 10**9, "'num_labels' is 1,000,000,000"),
    ("config.json", ("text_config", "num_experts"), 10**6, "'text_config.num_experts' is 1,000,000"),
    ("config.json", ("text_config", "layer_types"), ["x"] * 5000, "'text_config.layer_types' is 5,000 entries"),
    ("config.json", ("text_config", "vocab_size"), 10**7, "parameters, the weights beside it have"),
    ("config.json", ("vision_config", "image_size"), 10**6, "parameters, the weights beside it have"),
    ("config.json", ("text_config", "hidden_size"), 1e308, "'text_config.hidden_size' is 1"),
    ("config.json", ("text_config", "num_attention_heads"), 0, "can't be read as a llava checkpoint"),
    ("config.json", ("text_config",), [[]], "can't be read as a llava checkpoint"),
    (
        "processor_config.json",
        ("image_processor", "size"),
        {"height": 10**6, "width": 10**6},
        "size.height' is 1,000,000",
    ),
    ("processor_config.json", ("image_processor", "size"), {"shortest_edge": 10**6}, "a side"),
    ("processor_config.json", ("patch_size",), 10**9, "'patch_size' is 1,000,000,000"),
    ("tokenizer.json", ("padding",), {"strategy": {"Fixed": 10**10}}, "'padding.strategy.Fixed' is 10,000,000,000"),
    (
        "tokenizer.json",
        ("normalizer",),
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60},
        "its normalizer has .* which lengthen a text",
    ),
    (
        "tokenizer.json",
        ("normalizer",),
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 1000},
        "its normalizer has .* which lengthen a text",
    ),
]


@pytest.mark.parametrize(("file", "keys", "value", "says"), LARGE, ids=range(len(LARGE)))
def test_numbers_that_no_model_has(copied, file, keys, value, says):
    folder = copied()
    edited(folder / file, *keys, value=value)
    refused(lambda: load(folder), says, seconds=30)


def test_a_regular_expression_that_backtracks_without_end(copied):
    """The library gives up by itself, with an error that is no `Exception`."""
    folder = copied()
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    edited(folder / "tokenizer.json", "pre_tokenizer", value=split)
    refused(lambda: load(folder).prompts.ids("a" * 40 + "!", None, []), "the model's tokenizer can't read", seconds=200)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "[1", "1" * 5000])
def test_levels_and_broken_json(copied, file, text):
    folder = copied()
    (folder / file).write_text(text)
    refused(lambda: load(folder), f"{file}.*(nested more than 64 deep|not valid JSON)")


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "processor_config.json"])
def test_files_beside_the_weights_are_regular_and_of_a_size(copied, file):
    folder = copied()
    with (folder / file).open("ab") as opened:
        opened.truncate(1 << 40)
    refused(lambda: load(folder), f"{file} has 1,099,511,627,776 bytes; at most")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(lambda: load(folder), f"{file} is no regular file")


def test_a_configuration_alone_is_bounded_too(tmp_path, tiny_chat):
    """`evertune plan` reads no weights."""
    for keys, value in ((("text_config", "num_hidden_layers"), 10**7), (("num_labels",), 10**9)):
        shutil.copy(tiny_chat("llava") / "config.json", tmp_path)
        edited(tmp_path / "config.json", *keys, value=value)
        refused(lambda: load_on_paper(str(tmp_path)), "at most")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("image_side", 10**6), ("lora_rank", 10**6), ("vision_width", 10**6), ("vision", {"depth_coefficient": 10**6})],
)
def test_numbers_of_a_smol_folder(tmp_path, key, value):
    folder = shutil.copytree(model_folder("random"), tmp_path / "smol")
    edited(folder / "config.json", key, value=value)
    refused(lambda: load(folder), f"{key}.* is 1,000,000; at most")
    edited(folder / "config.json", key, value=json.loads((model_folder("random") / "config.json").read_text())[key])
    edited(folder / "config.json", "lora_rank", value=[])
    refused(lambda: load(folder), "can't be read as a smol checkpoint")


def test_a_text_encoder_is_bounded_too(tmp_path):
    folder = shutil.copytree(model_folder("random") / "lm", tmp_path / "lm")
    edited(folder / "config.json", "num_hidden_layers", value=10**7)
    refused(lambda: load_text_encoder(str(folder)), "'num_hidden_layers' is 10,000,000")


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.iterdir() if path.is_dir()))
def test_real_configurations_are_within_the_bounds(name):
    refuse_config(CONFIGS / name / "config.json")


@pytest.mark.parametrize("name", [*FAMILIES, "tiny-aligned"])
def test_folders_of_each_family_are_within_the_bounds(name, tiny_chat):
    refuse_unbounded(tiny_chat(name) if name in FAMILIES else model_folder(name))


def test_numbers_of_the_largest_real_models_are_within_the_bounds(tmp_path):
    """Kimi-K2's experts, Llama 4's context, Gemma-3's vocabulary, Qwen3-VL's pixels, a tokenizer without limit."""
    numbers = {"num_hidden_layers": 61, "n_routed_experts": 384, "max_position_embeddings": 10_485_760}
    numbers |= {
        "vocab_size": 262_208,
        "intermediate_size": 53_248,
        "rope_theta": 100_000_000,
        "label2id": {"layer": 9999},
    }
    (tmp_path / "config.json").write_text(json.dumps({"text_config": numbers}))
    size = {"longest_edge": 25_165_824, "shortest_edge": 65_536}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size, "patch_size": 16, "merge_size": 2}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": int(1e30)}))
    llama = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    steps = {"normalizer": {"type": "Sequence", "normalizers": [*llama, spaces]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(steps))
    refuse_unbounded(tmp_path)

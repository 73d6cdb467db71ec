"""Chat templates, configurations and tokenizers of strangers: bounded in time and memory, one clear line each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
import test_templates
import torch
from tiny_chat import FAMILIES
from transformers.utils.chat_template_utils import _cached_compile_jinja_template

from evertune.errors import UserError
from evertune.lmm import load_lmm, templates
from evertune.lmm.compat import processor_of
from evertune.lmm.template_worker import Generation, environment
from evertune.lmm.templates import render

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
    templates._renderer(os.getpid()).close()
    yield
    templates._renderer(os.getpid()).close()


def refused(load, match, *, seconds=20.0):
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - start < seconds


def load(folder):
    return load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))


# Templates


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("hurried")
def test_a_template_without_end_is_one_line(name):
    template, says = HOSTILE[name]
    refused(lambda: render(template, {"messages": TURNS}), f"^the model's chat template can't be used: .*({says})")
    assert render("{{ messages | length }}", {"messages": TURNS}) == "2", "the next one is rendered"


@pytest.mark.parametrize("name", ["loops", "division", "doubling"])
@pytest.mark.usefixtures("hurried")
def test_a_model_with_such_a_template_is_refused(copied, name):
    folder = copied()
    (folder / "chat_template.jinja").write_text(HOSTILE[name][0])
    refused(lambda: load(folder), "the model's chat template can't be used", seconds=60)


@pytest.mark.usefixtures("hurried")
def test_a_template_that_branches_on_a_later_question(copied):
    """It is harmless when the model is loaded."""
    folder = copied()
    file = folder / "chat_template.jinja"
    trap = "{% if 'now' in messages[-1]['content'][-1]['text'] %}" + LOOPS + "{% endif %}"
    file.write_text(trap + file.read_text())
    lmm = load(folder)
    refused(lambda: lmm.prompts.prompt("and now?"), "can't be used: it takes more than 1 s", seconds=60)
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


def test_the_worker_imports_no_library_but_jinja2():
    code = (
        "import runpy, sys; sys.argv = ['x', '1', '1', str(1 << 30)]; sys.stdin = iter([]);"
        f"runpy.run_path({str(templates._WORKER)!r}, run_name='__main__');"
        "print({'torch', 'numpy', 'transformers', 'evertune'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True).strip() == "set()"


def test_the_worker_survives_signals_threads_and_forks_and_ends_with_its_parent():
    assert render("1", {"messages": []}) == "1"
    worker = templates._renderer(os.getpid())._process
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
    assert found == [True] * 20 and templates._renderer(os.getpid())._process is worker
    child = os.fork()
    if not child:
        os._exit(0 if render("2", {"messages": []}) == "2" else 1)
    assert os.waitpid(child, 0)[1] == 0
    worker.kill()
    worker.wait()
    assert render("3", {"messages": []}) == "3", "another one is started"
    code = (
        "import os\nfrom evertune.lmm import templates\ntemplates.render('1', {'messages': []})\n"
        "print(templates._renderer(os.getpid())._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, text=True)
    left = Path("/proc") / killed.stdout.strip()
    until = time.monotonic() + 20
    while time.monotonic() < until and left.exists():
        time.sleep(0.05)
    assert not left.exists()

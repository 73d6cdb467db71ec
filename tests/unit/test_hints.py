"""Every hint that names an option names one that the command has which shows it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import evertune
from evertune.cli import app

ROOT = Path(evertune.__file__).parent
RUNS = ("run", "grid", "study")
DATA = ("data check", "learn", "try")
SHOWN_BY = {
    "analysis/study.py": ("pairs",),
    "cli_analysis.py": ("pairs",),
    "cli_data.py": ("rescore",),
    "cli_models.py": ("export",),
    "config.py": ("run", "plan", "new", "learn", "try"),
    "data/convert.py": ("data convert", "data sample"),
    "data/source.py": DATA,
    "data/writers.py": ("data convert", "data sample"),
    "export/adapters.py": ("export",),
    "export/merged.py": ("export",),
    "identity.py": (*RUNS, "pairs"),
    "lmm/device.py": ("run", "new", "learn"),
    "lmm/paper.py": ("plan",),
    "lmm/presets.py": ("run", "pairs", "similarity", "new"),
    "lmm/smol_weights.py": ("fetch",),
    "plan_on_paper.py": ("plan",),
    "rescore/compare.py": ("rescore",),
    "rescore/gold.py": ("rescore",),
    "rescore/pairing.py": ("rescore",),
    "rescore/predictions.py": ("rescore",),
    "runner.py": RUNS,
    "scoring/matrix_files.py": ("metrics",),
    "serve/listening.py": ("serve", "app"),
    "stages.py": RUNS,
    "stamp.py": RUNS,
    "study/file.py": ("study",),
    "tasks/single_file.py": DATA,
    "tasks/stream.py": ("run", "plan", "pairs", "similarity", "data check"),
    "upkeep/accept.py": ("learn",),
    "upkeep/auto.py": ("learn",),
    "upkeep/new_task.py": ("learn", "try"),
    "upkeep/steps.py": ("learn",),
    "upkeep/view.py": ("learn",),
}
"""By module, the commands that show its messages. A message may also name a command of its own: evertune doctor RUN."""
FOREIGN = {"--fsdp_version", "--fsdp"}
"""Of accelerate launch."""
NO_MESSAGES = ("app/looks.py", "assets/", "pretrain/smol_card.py", "export/card.py", "tracking/")
"""Styles, commands of other tools, model cards."""


def options():
    """The options of each command, groups joined: `data check`."""

    def walk(group, before=""):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{before}{name} ")
            else:
                yield f"{before}{name}", {option for each in command.params for option in each.opts}

    return dict(walk(typer.main.get_command(app)))


def messages(path):
    """(line, text) of all texts that are no docstrings; what is put into them is `{}`."""
    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def mistakes(module, text, known):
    """What is wrong with the options that a message of `module` names."""
    if re.fullmatch(r"--[a-z/-]+(=.*)?", text):  # an option itself, where it is made or given to another program
        return
    named = [name for name in known if re.search(rf"evertune {name}\b", text)]
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", text)) - FOREIGN:
        if any(option in known[name] for name in named):
            continue
        if module not in SHOWN_BY:
            yield f"'{text}' names {option}, and no command: name one, or say in SHOWN_BY which commands show it"
        for command in SHOWN_BY.get(module, ()):
            if option not in known[command]:
                yield f"'{text}' names {option}, which evertune {command} does not have"


@pytest.fixture(scope="module")
def known():
    return options()


def test_every_hint_names_an_option_that_is_there(known):
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        if not module.startswith(NO_MESSAGES):
            for line, text in messages(path):
                found += [f"{module}:{line}: {said}" for said in mistakes(module, text, known)]
    assert not found, "\n".join(found)
    assert set(SHOWN_BY) <= {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("tasks/problems.py", "Mend them, or leave them out with --skip-bad", True),
        ("tasks/problems.py", "leave them out: evertune run --skip-bad", False),
        ("upkeep/accept.py", "--accept-if {}: no comparison", False),
        ("upkeep/accept.py", "choose another --out", True),
        ("stages.py", "See evertune doctor {} --repair", False),
        ("stages.py", "See evertune doctor {} --mend", True),
    ],
)
def test_such_a_hint_is_found(known, module, text, wrong):
    assert bool(list(mistakes(module, text, known))) == wrong

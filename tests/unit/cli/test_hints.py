"""Every hint that names an option names one that the command has which shows it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import evertune
from evertune.cli.main import app

ROOT = Path(evertune.__file__).parent
RUNS = ("run", "grid", "study")
DATA = ("data check", "learn", "try")
SHOWN_BY = {
    "training/run_origin.py": (*RUNS, "pairs"),
    "experiments/pairs/study.py": ("pairs",),
    "cli/analysis.py": ("pairs",),
    "cli/leaderboard.py": ("leaderboard",),
    "experiments/leaderboard/check.py": ("leaderboard",),
    "cli/results.py": ("compare",),
    "runs/same_questions.py": ("run",),
    "runs/probing.py": ("run",),
    "metrics/cider.py": ("run",),
    "metrics/rules.py": ("run", "check", "learn", "compare", "report"),
    "cli/cache.py": ("cache",),
    "cli/data.py": ("rescore",),
    "cli/models.py": ("export",),
    "runs/config.py": ("run", "plan", "new", "learn", "try"),
    "tools/data/convert.py": ("data convert", "data sample"),
    "tools/data/source.py": DATA,
    "tools/data/writers.py": ("data convert", "data sample"),
    **{f"tools/export/{name}.py": ("export",) for name in ("adapters", "api", "base", "hub", "servers")},
    "tools/export/merged.py": ("export",),
    "runs/run_folder.py": (*RUNS, "pairs"),
    "utils/device.py": ("run", "new", "learn"),
    "models/meta.py": ("plan",),
    "models/presets.py": ("run", "pairs", "similarity", "new"),
    "models/smol_weights.py": ("fetch",),
    "runs/plan/estimate.py": ("plan",),
    "tools/rescore/compare.py": ("rescore",),
    "tools/rescore/gold.py": ("rescore",),
    "tools/rescore/pairing.py": ("rescore",),
    "tools/rescore/predictions.py": ("rescore",),
    "runs/runner.py": RUNS,
    "metrics/matrix_files.py": ("metrics",),
    "apps/auth.py": ("serve", "app"),
    "apps/serving.py": ("serve", "app"),
    "training/stages.py": RUNS,
    "runs/provenance.py": RUNS,
    "experiments/study/file.py": ("study",),
    "data/single_file.py": DATA,
    "apps/route/command.py": ("route",),
    "apps/route/upstream.py": ("route",),
    "data/task_file.py": ("run", "plan", "pairs", "similarity", "data check"),
    "data/stream.py": ("run", "plan", "pairs", "similarity", "data check"),
    "service/gate.py": ("learn",),
    "runs/plugin_code.py": RUNS,
    "utils/plugins.py": ("run", "ask", "show", "ls", "data check"),
    "methods/__init__.py": ("run", "plan", "new", "grid", "study", "pairs"),
    "service/auto_method.py": ("learn",),
    "service/new_task.py": ("learn", "try"),
    "service/lifecycle.py": ("learn",),
    "cli/service_view.py": ("learn",),
}
"""By module, the commands that show its messages. A message may also name a command of its own: evertune doctor RUN."""
FOREIGN = {"--fsdp_version", "--fsdp", "--use_fsdp", "--help", "--version"}
FOREIGN |= {"--enable-lora", "--max-lora-rank", "--model-path", "--lora-paths", "--lora-target-modules", "--backend"}
FOREIGN |= {"--adapters"}
"""Of accelerate launch, vLLM, SGLang and LMDeploy; and of every command."""
NO_MESSAGES = (
    "apps/playground/theme.py",
    "assets/",
    "tools/export/card.py",
    "runs/tracking/",
)
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


@pytest.mark.slow
def test_every_hint_names_an_option_that_is_there(known):
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        if not module.startswith(NO_MESSAGES):
            for line, text in messages(path):
                found += [f"{module}:{line}: {mistake}" for mistake in mistakes(module, text, known)]
    assert not found, "\n".join(found)
    assert set(SHOWN_BY) <= {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("data/issues.py", "Fix them, or leave them out with --skip-invalid", True),
        ("data/issues.py", "leave them out: evertune run --skip-invalid", False),
        ("service/gate.py", "--accept-if {}: no comparison", False),
        ("service/gate.py", "choose another --out", True),
        ("training/stages.py", "See evertune doctor {} --repair", False),
        ("training/stages.py", "See evertune doctor {} --mend", True),
    ],
)
def test_such_a_hint_is_found(known, module, text, wrong):
    assert bool(list(mistakes(module, text, known))) == wrong

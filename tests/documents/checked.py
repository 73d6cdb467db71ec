"""Whether commands could run at all, found out without running them: for blocks that take hours, a GPU or the hub.

A command line is parsed by the parser of the real one: the command, its options and its arguments must exist. A run's
stream, methods and settings must be known, scripts and targets of make must be there, Python must compile.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import click
import typer.main
import yaml
from blocks import ROOT, Block

from evertune.cli.main import app
from evertune.data.stream import stream_names
from evertune.models.presets import PRESETS
from evertune.runs.api import configure, method_specs
from evertune.utils.errors import UserError

OURS = ("benchmarks/", "examples/", "docs/", "scripts/", "tests/", "src/")
HEREDOC = re.compile(r"<<'?(\w+)'?\n(.*?)\n\1\n", re.DOTALL)
PROMPT = "$ "
COMMAND = re.compile(r"^(\$ |evertune (?!:)|python |make )", re.MULTILINE)


def mistakes_of(block: Block) -> list[str]:
    """What is wrong with a block, as far as that shows without running it."""
    if block.language == "python":
        return mistakes_of_python(block.text)
    if block.language == "yaml":
        return [] if isinstance(yaml.safe_load(block.text), dict) else ["not a mapping"]
    if block.language == "console":
        lines = [line.removeprefix(PROMPT) for line in block.text.splitlines() if line.startswith(PROMPT)]
        return mistakes_of_shell("\n".join(lines)) if lines else [f"no line begins with '{PROMPT}'"]
    if block.language == "sh":
        return mistakes_of_shell(block.text)
    return ["commands stand in a block of `sh` or `console`"] if COMMAND.search(block.text) else []


def mistakes_of_python(text: str) -> list[str]:
    """A block of Python must compile."""
    try:
        compile(text, "block", "exec")
    except SyntaxError as problem:
        return [str(problem)]
    return []


def mistakes_of_shell(text: str, *, named_only: bool = False) -> list[str]:
    """Each command of a piece of shell; `named_only`: a sentence that names a command may leave out its arguments."""
    result = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    found = [result.stderr.strip()] if result.returncode else []
    for document in HEREDOC.finditer(text):
        found += mistakes_of_python(document[2])
    for words in commands_in(HEREDOC.sub("\n", text)):
        found += mistakes_of_command(words, named_only=named_only)
    return found


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each simple command; what a shell would expand stays as it is written."""
    reader: Any = shlex.shlex(text.replace("\\\n", " ").replace("\n", "\n; "), posix=True, punctuation_chars=";&|<>")
    reader.whitespace_split = True
    words: list[str] = []
    for word in reader:
        if set(word) <= set(";&|"):
            yield from [words] if words else []
            words = []
        else:
            words.append(word)
    yield from [words] if words else []


def mistakes_of_command(words: list[str], *, named_only: bool) -> list[str]:
    """One command: of ours by its parser, files by whether they are there."""
    program = words[0].rpartition("/")[2]
    missing = [word for word in words if word.startswith(OURS) and "$" not in word and not list(ROOT.glob(word))]
    found = [f"'{word}' does not exist" for word in missing]
    if program == "evertune":
        found += mistakes_of_evertune(words[1:], named_only=named_only)
    elif "evertune" in words and words[words.index("evertune") - 1] == "-m":
        found += mistakes_of_evertune(words[words.index("evertune") + 1 :], named_only=named_only)
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        found += [f"make has no target '{word}'" for word in words[1:] if word not in targets and "=" not in word]
    return found


def mistakes_of_evertune(words: list[str], *, named_only: bool) -> list[str]:
    """The words behind `evertune`, parsed by its own parser; nothing is called."""
    command: Any = typer.main.get_command(app)
    path = []
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            return []  # `evertune --help`
        if words[0] not in command.commands:
            return [] if words[0].isupper() else [f"there is no command '{words[0]}'"]
        command, words = command.commands[words[0]], words[1:]
        path.append(command.name)
    try:
        with command.make_context(" ".join(path), list(words)) as context:
            given = dict(context.params)
    except click.exceptions.Exit:
        return []  # --help
    except Exception as problem:  # typer brings its own copy of click, whose errors are other classes
        if not hasattr(problem, "format_message"):
            raise
        if named_only and type(problem).__name__ in ("MissingParameter", "BadParameter"):
            return []
        return [f"evertune {' '.join(path)}: {problem.format_message()}"]
    return [] if named_only or path[0] not in ("run", "plan") else mistakes_of_run(given)


def mistakes_of_run(given: dict[str, Any]) -> list[str]:
    """The stream, the methods and the settings of a run that is not started."""
    if given["plugin"]:  # a method that only this file brings
        return []
    stream, model = given["stream"], given["model"]
    try:
        fields = {key: given[key] for key in ("model", "method", "seed", "limit", "out", "data")}
        known = "pocket-b1" if stream.endswith((".yaml", ".jsonl")) else stream
        method_specs(configure(known, settings=given["settings"] or [], **fields))
    except UserError as problem:
        return [str(problem)]
    found = [] if known in stream_names() else [f"there is no stream '{stream}'"]
    is_name = model and "/" not in model and not model.isupper()
    return [*found, f"there is no model '{model}'"] if is_name and model not in PRESETS else found

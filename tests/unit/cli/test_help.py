"""The help: groups, whole descriptions at 80 columns, an example of every command, and names of other tools."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import evertune

from evertune.cli.groups import ELSEWHERE, GROUPS, RESUMING, example_of
from evertune.cli.main import app

COMMANDS = typer.main.get_command(app).commands
LEAVES = [*(name for name in COMMANDS if name != "data"), *(f"data {name}" for name in COMMANDS["data"].commands)]


def command_of(name):
    first, *rest = name.split()
    return COMMANDS[first].commands[rest[0]] if rest else COMMANDS[first]


def test_every_command_stands_in_a_group_on_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = evertune("-h", capsys=capsys)
    assert code == 0
    listed = out.split("Benchmark:")[1].splitlines()
    assert [name for names in GROUPS.values() for name in names] == [
        line.split()[0] for line in listed if line.startswith("  ")
    ]
    assert {name for names in GROUPS.values() for name in names} == set(COMMANDS)
    assert all(f"\n{title}:\n" in out for title in GROUPS)
    assert out.rstrip().endswith("2 wrong input; 130 Ctrl-C; 143 SIGTERM.")
    assert "..." not in "".join(listed) and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", LEAVES)
def test_help_ends_with_an_example_that_the_parser_takes(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = evertune(*name.split(), "--help", capsys=capsys)
    assert code == 0
    *_, title, example = out.rstrip().splitlines()
    assert title.strip() == "Example:" and example.strip() == example_of(name).splitlines()[-1].strip()
    words = shlex.split(example)
    assert words[: 1 + len(name.split())] == ["evertune", *name.split()]
    assert max(map(len, out.splitlines())) <= 80
    command_of(name).make_context(name, words[1 + len(name.split()) :])


@pytest.mark.parametrize("name", LEAVES)
def test_help_names_values_not_types(name, capsys):
    _, out, _ = evertune(*name.split(), "--help", capsys=capsys)
    usage, rest = out.split("\n\n", 1)
    assert not re.search(r"<[\w\[\]]+>|[{}]|range", out) and "......" not in usage, out
    assert "[default: None" not in " ".join(rest.split())
    for param in command_of(name).params:
        assert param.help, (name, param.name)
        if param.param_type_name == "option":
            assert all(option in rest for option in param.opts)


def test_defaults_and_what_is_required_are_in_the_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = evertune("export", "-h", capsys=capsys)
    assert "Usage: evertune export [OPTIONS] RUN\n" in out and re.search(
        r"--to DIR +A new folder \[required\]\.\n", out
    )
    _, out, _ = evertune("app", "-h", capsys=capsys)
    assert "Usage: evertune app [OPTIONS] DIR...\n" in out and "any free one [default: 7860].\n" in out
    _, out, _ = evertune("doctor", "-h", capsys=capsys)
    assert "Usage: evertune doctor [OPTIONS] [RUN]\n" in out


@pytest.mark.slow
def test_version_and_completion(capsys):
    code, out, _ = evertune("--version", capsys=capsys)
    assert code == 0 and out.startswith("evertune ")
    environment = {**os.environ, "_EVERTUNE_COMPLETE": "source_bash"}  # what --show-completion prints in bash
    result = subprocess.run(
        [sys.executable, "-m", "evertune"], capture_output=True, text=True, check=False, env=environment
    )
    assert "complete " in result.stdout and "_EVERTUNE_COMPLETE=complete_bash" in result.stdout, result.stderr
    _, out, _ = evertune("--help", capsys=capsys)
    assert "--install-completion" in out and "--show-completion" in out


@pytest.mark.parametrize(
    ("typed", "meant"), [("train", "learn"), ("eval", "check"), ("chat", "ask"), ("merge", "export")]
)
def test_names_of_other_tools_lead_to_ours(typed, meant, capsys):
    code, _, err = evertune(typed, "x", capsys=capsys)
    assert code == 2 and f"unknown command '{typed}'; " in err and f"evertune {meant} " in err
    assert len(err.splitlines()) == 1


def test_what_other_tools_names_lead_to_is_there():
    assert not set(ELSEWHERE) & set(COMMANDS) and set(COMMANDS) >= RESUMING
    for text in ELSEWHERE.values():
        named = [part.split()[1] for part in text.split("'")[1::2]]
        assert named and all(name in COMMANDS or name.startswith("--") for name in named)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["runn"], "unknown command 'runn'; did you mean 'run'?"),
        (["data", "chek"], "unknown command 'chek'; did you mean 'check'?"),
        (["run"], "missing argument 'STREAM'; see evertune run --help"),
        (["run", "parcel", "--seeed", "1"], "no such option: --seeed"),
        (["learn", "m"], "missing argument 'DATA'; see evertune learn --help"),
        (["serve", "m", "--port", "99999"], "invalid value for '--port': "),
        (["app", "m", "--port", "-1"], "invalid value for '--port': "),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, complaint, capsys):
    code, out, err = evertune(*arguments, capsys=capsys)
    assert code == 2 and out == "" and complaint in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(("command", "resumes"), [("run", True), ("serve", False)])
def test_only_what_resumes_says_so_when_interrupted(command, resumes, capsys, monkeypatch, tmp_path):
    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("evertune.cli.runs.make_console", stop)
    monkeypatch.setattr("evertune.cli.service.make_console", stop)
    code, _, err = evertune(command, "pocket-b1" if resumes else Path(tmp_path), capsys=capsys)
    how = "interrupted; the same command again continues" if resumes else "stopped"
    assert code == 130 and err.strip() == f"evertune: {how}"


@pytest.mark.parametrize("command", [("forget", "july"), ("rollback", "--to", "1")])
def test_a_wrong_folder_is_said_before_a_question_is_asked(command, capsys, tmp_path):
    """`forget` asked whether to forget a task that was not there."""
    name, *rest = command
    code, out, err = evertune(name, tmp_path / "nope", *rest, capsys=capsys)
    assert code == 2 and "is no run folder: it does not exist" in err and "?" not in out + err


def test_an_unknown_name_lists_each_known_one_once(capsys):
    """`coin` is a stream and a format."""
    code, _, err = evertune("show", "qqqqq", capsys=capsys)
    names = err.split("known: ")[1].strip().split(", ")
    assert code == 2 and "coin" in names and len(names) == len(set(names))


def test_streams_are_listed_by_name(capsys):
    _, out, _ = evertune("ls", "streams", "--json", capsys=capsys)
    names = [row["name"] for row in json.loads(out)]
    assert names == sorted(names) and names[:2] == ["b1", "b1-reversed"]

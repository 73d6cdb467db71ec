"""The reference pages: every key has a meaning, every file of a run folder a schema, every variable and code a line."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from reference_pages import commands_page, configuration_page, groups
from typer.testing import CliRunner

import evertune
from evertune.cli.main import app
from evertune.methods import METHODS
from evertune.reporting.matrix import KEYS

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
SCHEMA = json.loads((DOCS / "schemas" / "run_folder.json").read_text())
ROWS = re.findall(r"^\| (.*?) \| (.*?) \|", (DOCS / "run_folder.md").read_text(), re.MULTILINE)[1:]
FILES = {pattern: definition.strip("`") for names, definition in ROWS for pattern in re.findall(r"`([^`]+)`", names)}


def test_every_key_has_a_meaning_and_every_number_a_unit():
    keys = [key for found in groups().values() for key in found]
    assert len(keys) > 150
    assert [key.name for key in keys if not key.meaning] == []
    numbers = [key for key in keys if key.kind in ("integer", "number")]
    assert len(numbers) > 50 and [key.name for key in numbers if not key.unit] == []
    assert all(re.fullmatch(r"[\w ,`+/.-]+", key.kind) for key in keys), "types are in words"


@pytest.mark.slow
def test_the_page_of_configuration_has_every_key_of_a_run(random_run):
    page = configuration_page()
    written = yaml.safe_load((random_run / "config.yaml").read_text())
    identity = {"format", "data", "model_config"}
    flat = {f"{group}.{key}" for group in ("train", "evaluation") for key in written[group]}
    flat |= {f"{method}.{key}" for method, options in written["options"].items() for key in options}
    flat |= set(written) - identity - {"train", "evaluation", "options"}
    assert len(flat) > 20 and {key for key in flat if f"| `{key}` |" not in page} == set()


def test_the_pages_of_methods_and_commands_are_complete():
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")}
    assert set(METHODS) - pages == {"sequential", "direct", "joint"}, "the three without a page are in docs/methods.md"
    assert "## data check" in commands_page() and "`--deterministic`" in commands_page()


@pytest.fixture(scope="module")
def random_run(tmp_path_factory, toy_stream):
    """A run of two tasks with replay and a penalty, in a few seconds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    evertune.run(str(toy_stream), model="random", methods="replay+ewc", out=folder, limit=3, progress=False)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory, toy_stream):
    """A model in service that learned two tasks and went back one."""
    folder = tmp_path_factory.mktemp("service") / "model"
    commands = [["new", folder, "--model", "random", "--set", "dtype=float32"]]
    for task in yaml.safe_load(toy_stream.read_text())["tasks"][:2]:
        data = [toy_stream.parent / task["train"], "--images", task["images"]]
        commands += [["learn", folder, *data, "--accept-if", "gain>=-100", "--set", "train.min_steps=1"]]
    commands += [["rollback", folder, "--to", "1", "--yes"]]
    for command in commands:
        done = CliRunner().invoke(app, [*map(str, command)])
        assert done.exit_code == 0, done.output
    return folder


def mistakes(folder: Path) -> list[str]:
    """Files that the page does not know, or that their schema refuses."""
    found = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        definition = next((FILES[pattern] for pattern in FILES if fnmatch.fnmatch(name, pattern)), None)
        if definition is None:
            found.append(f"{name} is not in docs/run_folder.md")
        elif definition in SCHEMA["$defs"]:
            texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            checker = jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{definition}"})
            found += [
                f"{name}: {one.json_path}: {one.message}"
                for text in texts
                for one in checker.iter_errors(json.loads(text))
            ]
    return found


@pytest.mark.slow
def test_every_file_of_a_run_follows_its_schema(random_run):
    assert mistakes(random_run) == []
    (random_run / "notes.json").write_text("{}")
    assert mistakes(random_run) == ["notes.json is not in docs/run_folder.md"]
    (random_run / "notes.json").unlink()


@pytest.mark.slow
def test_every_file_of_a_model_in_service_follows_its_schema(served):
    assert mistakes(served) == []


@pytest.mark.slow
def test_a_wrong_value_is_noticed(random_run, tmp_path):
    wrong = json.loads((random_run / "matrix.json").read_text())
    wrong["R"][0][0], wrong["extra"] = "high", 1
    (tmp_path / "matrix.json").write_text(json.dumps(wrong))
    assert len(mistakes(tmp_path)) == 2


def test_the_schema_has_the_keys_that_the_code_writes():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(SCHEMA["$defs"]["matrix.json"]["properties"]) == ["format", *KEYS]
    assert set(FILES.values()) >= set(SCHEMA["$defs"]) - {"cell", "sample"}


def test_every_variable_and_exit_code_has_a_line():
    page = (DOCS / "environment.md").read_text()
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert set(re.findall(r"EVERTUNE_[A-Z_]+", source)) == set(
        re.findall(r"^\| `(EVERTUNE_[A-Z_]+)`", page, re.MULTILINE)
    )
    for code in ("0", "1", "2", "130", "143"):
        assert f"| {code} |" in page


def test_each_page_says_first_who_it_is_for():
    pages = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
    without = [name for name, text in pages.items() if not re.match(r"# [^\n]*\n\nFor ", text)]
    assert without == [], "the first paragraph begins with 'For readers who ...'"

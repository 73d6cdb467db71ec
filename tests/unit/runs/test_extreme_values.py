"""Numbers, names and places at their extremes: one clear line before anything is written, whichever option it is."""

from __future__ import annotations

import inspect
import math
import types
import typing

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from evertune import UserError
from evertune.cli.main import app
from evertune.data.stream import stream_file
from evertune.experiments.grid import GridFile, cells_of, read_grid
from evertune.experiments.study.file import StudyFile
from evertune.methods import METHODS, options_of
from evertune.models.scopes import scope_of
from evertune.runs.api import configure, method_specs
from evertune.runs.config import RunConfig
from evertune.training.loop import MOST_SAMPLES, Training
from evertune.utils.config_io import LARGEST_FLOAT, LARGEST_INT
from evertune.utils.errors import RunFolderError
from evertune.utils.safe_names import is_name

EXTREMES = (
    math.nan,
    math.inf,
    -math.inf,
    "nan",
    "1e308",
    1e300,
    -1e300,
    2.0**64,
    -1,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**400,
)


def is_number(annotation):
    arguments = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return bool({int, float} & set(arguments))


def numbers_of(schema, before=""):
    """The names of all numeric settings of a schema and of those within it."""
    for name, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from numbers_of(field.annotation, f"{before}{name}.")
        elif is_number(field.annotation):
            yield f"{before}{name}"


SETTINGS = sorted(numbers_of(RunConfig))
OPTIONS = sorted(
    f"{m}.{name}" for m in METHODS for name, option in options_of(m).items() if is_number(option.annotation)
)


def all_numbers(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from all_numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from all_numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_there_are_settings_to_try():
    assert {"seed", "limit", "train.epochs", "train.learning_rate", "evaluation.batch_size"} <= set(SETTINGS)
    assert {"replay.ratio", "ewc.strength", "olora.r"} <= set(OPTIONS)


@pytest.mark.parametrize("key", [*SETTINGS, *OPTIONS, "model.r", "model.lora_alpha"])
def test_every_number_is_one_that_can_be_held_or_one_line(key):
    method = key.split(".")[0] if key in OPTIONS else "sequential"
    content = {"method": method} if method != "replay" else {"method": method, "options": {"replay": {}}}
    refused = 0
    for value in EXTREMES:
        try:
            config = configure("parcel", settings=[f"{key}={value}"], **content)
            method_specs(config)
            scope_of(config.model_options)
        except UserError as problem:
            refused += 1
            assert len(str(problem).splitlines()) == 1 and key.rpartition(".")[2] in str(problem)
            continue
        for number in all_numbers(config.model_dump()):
            assert abs(number) <= (LARGEST_INT if isinstance(number, int) else LARGEST_FLOAT), (key, value)
    assert refused >= 9, "what is no number, not finite or too large"


@pytest.mark.parametrize("seed", ["-1", str(2**63), str(2**64), str(-(2**64)), "9" * 5000])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_seeds_on_the_command_line(command, seed, tmp_path):
    done = CliRunner().invoke(app, [command, "parcel", "--seed", seed, "--out", str(tmp_path / "run")])
    assert "seed" in (str(done.exception) if isinstance(done.exception, UserError) else done.output)
    assert done.exit_code == 2 or isinstance(done.exception, UserError)
    assert not (tmp_path / "run").exists()


def test_grids_and_studies_have_the_same_bounds(tmp_path):
    for change in (
        {"seeds": [2**64]},
        {"vary": {"train.epochs": [1, math.inf]}},
        {"options": {"ewc": {"strength": 1e300}}},
    ):
        content = {"name": "g", "streams": ["parcel"], "methods": ["ewc"], **change}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=r"grid\.yaml: \w+"):
            cells_of(read_grid(path), out=tmp_path)
    assert issubclass(typing.get_args(typing.get_args(StudyFile.model_fields["parts"].annotation)[1])[0], GridFile)


def test_a_training_that_no_memory_holds_is_one_line():
    with pytest.raises(UserError, match=r"1,000,000,000,000 samples .* train\.epochs"):
        Training(epochs=1e9).steps(1000)
    with pytest.raises(UserError, match=r"train\.epochs"):
        Training(min_steps=2**62, batch_size=8).fitted(1000).steps(1000)
    assert Training(epochs=1e6).steps(1000) * 4 <= MOST_SAMPLES


# Names


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\rb", "a\tb", "a\u202eb", "a\u2028b", "a\x7fb", "a\x9bb"])
def test_names_with_control_characters_are_no_names(name, tmp_path):
    assert not is_name(name)
    path = tmp_path / "s.yaml"
    entry = {"name": "a", "data": "x.jsonl"}
    for content in ({"name": name, "tasks": [entry]}, {"name": "s", "tasks": [{**entry, "name": name}]}):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match="name") as caught:
            stream_file(str(path))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("A", "a"), "'A' and 'a' .* the same file"),
        (("Gqa", "b", "gQA"), "'Gqa' and 'gQA' .* the same file"),
        (("a", "a."), r"'a' and 'a\.' .* the same file"),
        (("a", "base"), "'base' .* row 0"),
        (("Base", "b"), "'Base' .* row 0"),
        (("zero-shot", "b"), "'zero-shot' .* row 0"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_tasks_whose_names_would_be_taken_for_another(names, message, known, tmp_path):
    entries = [{"name": name, "data": f"{number}.jsonl"} for number, name in enumerate(names)]
    content = {"name": "s", "known": entries[:1], "tasks": entries[1:]} if known else {"name": "s", "tasks": entries}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        stream_file(str(path))


def test_runs_of_a_grid_that_would_share_a_folder(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "g", "streams": ["parcel"], "methods": ["lora"], "models": ["M", "m"]}))
    with pytest.raises(UserError, match="the same file"):
        cells_of(read_grid(path), out=tmp_path)


# Places


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    return path


OUT = {
    "run": ["run", "{stream}", "--model", "random", "--out", "{out}"],
    "plan": ["plan", "{stream}", "--model", "random", "--out", "{out}"],
    "grid": ["grid", "{grid}", "--out", "{out}"],
    "study": ["study", "paper", "--out", "{out}"],
    "new": ["new", "{out}", "--model", "random"],
    "export": ["export", "{run}", "--to", "{out}"],
    "adapters": ["export", "{run}", "--to", "{out}", "--adapters"],
    "similarity": ["similarity", "{stream}", "--model", "random", "--out", "{out}"],
    "pairs": ["pairs", "{stream}", "--model", "random", "--out", "{out}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("below", [False, True], ids=["file", "below"])
@pytest.mark.parametrize("command", OUT)
def test_an_output_that_is_a_file_is_one_line(command, below, file, toy_stream, taught, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        yaml.safe_dump({"name": "g", "streams": [str(toy_stream)], "models": ["random"], "methods": ["lora"]})
    )
    out = file / "below" if below else file
    places = {"stream": toy_stream, "grid": grid, "run": taught / "sequential", "out": out}
    done = CliRunner().invoke(app, [part.format(**places) for part in OUT[command]])
    assert isinstance(done.exception, UserError | RunFolderError) and str(file) in str(done.exception)
    assert len(str(done.exception).splitlines()) == 1
    assert file.read_text() == "mine"

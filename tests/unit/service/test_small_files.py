"""Tasks of a few dozen rows: trained long enough, and called learned only when they were."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console
from skimage.data import coffee
from typer.testing import CliRunner

import evertune
from evertune import service
from evertune.cli import service as cli_service
from evertune.cli.main import app
from evertune.cli.service_view import show_check, show_learned
from evertune.runs.api import configure, resolved
from evertune.service.gate import ANYTHING
from evertune.service.lifecycle import history
from evertune.service.new_task import STEPS
from evertune.service.regression_report import Change, RegressionReport
from evertune.service.service import Service
from evertune.tools.data.check import CheckResult
from evertune.training.loop import SMALLEST_BATCH, Training
from evertune.utils.errors import RunFolderError, UserError

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
RATE = "train.learning_rate=0.003"


@pytest.mark.parametrize("gradient_accumulation_steps", [1, 4, 32])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 8, 32])
@pytest.mark.parametrize("epochs", [0.5, 1.0, 5.0])
def test_a_floor_of_steps(batch_size, gradient_accumulation_steps, epochs):
    for samples in (1, 7, 20, 58, 200, 1024, 3100, 100_000):
        plain = Training(epochs=epochs, batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps)
        floored = Training(
            epochs=epochs, batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, min_steps=200
        )
        fitted, whole = floored.fitted(samples), batch_size * gradient_accumulation_steps
        assert plain.fitted(samples) == plain
        assert fitted.steps(samples) >= 200
        assert fitted.steps(samples) <= max(plain.steps(samples), 260), "not much more than needed"
        assert fitted.epochs >= epochs and fitted.batch_size <= batch_size
        assert min(whole, SMALLEST_BATCH) / 2 < fitted.batch_size * fitted.gradient_accumulation_steps <= whole
        if plain.steps(samples) >= 200:
            assert fitted == floored
        if fitted.batch_size * fitted.gradient_accumulation_steps > SMALLEST_BATCH:
            assert fitted.epochs < 1.1 * epochs, "passes grow only when the batch can't shrink further"
        assert fitted.as_dict().keys() == plain.as_dict().keys(), "a floor that changes nothing has the same key"


def test_the_batch_of_58_rows():
    fitted = Training(batch_size=32, min_steps=200).fitted(58)
    assert (fitted.batch_size, fitted.gradient_accumulation_steps, fitted.steps(58)) == (8, 1, 200)
    fitted = Training(epochs=5, batch_size=8, gradient_accumulation_steps=32, min_steps=200).fitted(58)
    assert (fitted.batch_size, fitted.gradient_accumulation_steps, fitted.steps(58)) == (8, 1, 200)


def test_a_run_has_the_floor_only_when_it_is_set():
    plain = resolved(configure("parcel"), "sequential")
    assert "min_steps" not in plain["train"], "runs that were made before it keep their configuration"
    assert resolved(configure("parcel", settings=["train.min_steps=50"]), "sequential")["train"]["min_steps"] == 50


@pytest.fixture
def colours(tmp_path):
    """A file of 58 rows: what colour is it? Every image is another one."""
    place = tmp_path / "data"
    place.mkdir()
    rows = []
    for number in range(58):
        name = list(COLOURS)[number % 2]
        image = Image.new("RGB", (32, 32), COLOURS[name])
        image.putpixel((number % 32, number // 32), (255, 255, 255))
        image.save(place / f"{number}.png")
        rows.append({"image": f"{number}.png", "instruction": "Which colour?", "answer": name})
    (place / "july.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place / "july.jsonl")


@pytest.fixture
def model(tmp_path):
    """As a user makes one: one pass of batches of 32, which is two steps over 58 rows."""
    folder = tmp_path / "model"
    settings = ["train.batch_size=32", RATE, "dtype=float32"]
    service.new(folder, model="random", method="sequential", seed=3, settings=settings)
    return folder


class WarningRecorder(evertune.runs.runner.Callback):
    def __init__(self):
        self.notices = []

    def on_warning(self, text):
        self.notices.append(text)


def test_learn_trains_long_enough_by_itself(model, colours):
    expected = service.advice(model, colours)
    done = service.learn(model, colours)
    assert done.steps >= STEPS and done.training.batch_size == SMALLEST_BATCH
    assert expected.steps == done.steps == Service.open(model).learner.stages[0].steps
    assert done.verdict.new.word == "learned" and done.verdict.learned and not done.broken
    assert done.as_dict()["learned"] and done.as_dict()["training"]["batch_size"] == SMALLEST_BATCH
    (event,) = history(model)
    assert event["training"] == done.training.as_dict(), "the ledger says how it was trained"


def test_what_is_not_learned_is_discarded(model, colours):
    callback = WarningRecorder()
    settings = ["train.epochs=1", "train.learning_rate=1e-9"]
    done = service.learn(model, colours, settings=settings, callback=callback)
    assert done.steps == 2, "who says how long it is trained gets that"
    assert done.verdict.new.word == "not learned"
    new = done.verdict.new
    result = f"july is not learned: from {new.before:.1f} to {new.after:.1f} on {new.questions} questions"
    assert done.broken == (result,)
    assert Service.open(model).number == 0
    assert any(text.startswith("july: 2 optimizer steps on 4") for text in callback.notices)
    again = service.learn(model, colours, settings=settings, accept_if=service.parsed("gain>=-100"))
    assert again.stage == 1 and again.verdict.new.word == "not learned", "a condition takes the place of the rule"


def test_the_command_exits_with_1_or_asks(model, colours, monkeypatch):
    short = ["learn", str(model), colours, "--set", "train.epochs=1", "--set", "train.learning_rate=1e-9"]
    silent = CliRunner().invoke(app, short)
    assert silent.exit_code == 1 and Service.open(model).number == 0
    assert "not learned" in silent.stdout and "kept" not in silent.stdout and "accepted" not in silent.stdout
    assert f"train longer: evertune learn {model} {colours} --set train.min_steps=4" in silent.stdout
    machine = CliRunner().invoke(app, [*short, "--json"])
    assert machine.exit_code == 1 and json.loads(machine.stdout)["learned"] is False
    monkeypatch.setattr(cli_service, "_is_interactive", lambda _console: True)
    no = CliRunner().invoke(app, short, input="n\n")
    assert "keep the stage all the same?" in no.stdout and "rejected" in no.stdout
    assert no.exit_code == 1 and Service.open(model).number == 0
    cut = CliRunner().invoke(app, short, input="")  # as Ctrl-C at the question
    assert cut.exit_code == 1 and "rejected" in cut.stdout and Service.open(model).number == 0
    yes = CliRunner().invoke(app, short, input="y\n")
    assert yes.exit_code == 0 and Service.open(model).number == 1


def test_settings_of_one_task(model, colours):
    for entry in ("lora.r=4", "seed=5", "model.scope=lora", "dtype=bfloat16"):
        with pytest.raises(UserError, match=f"--set {entry}: a task can be trained otherwise"):
            service.learn(model, colours, settings=[entry])
    with pytest.raises(UserError, match="unknown key 'train.epoch'; did you mean 'train.epochs'"):
        service.learn(model, colours, settings=["train.epoch=3"])
    found = service.advice(model, colours, settings=["train.min_steps=30"])
    assert found.steps == 30
    assert service.advice(model, colours, settings=["train.batch_size=4"]).steps < 20, "the floor is off"
    assert service.advice(model, colours, settings=["train.learning_rate=0.1"]).steps >= STEPS, "it is not"


def test_a_run_of_a_handful_of_steps_says_so(colours, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="evertune"):
        evertune.run(colours, model="random", out=tmp_path / "run", settings=["train.batch_size=32"])
        text = "july: 2 optimizer steps on 46 samples, too few to learn much from: raise train.min_steps"
        assert [text in record.message for record in caplog.records].count(True) == 1
        caplog.clear()
        settings = ["train.batch_size=32", "train.min_steps=25"]
        evertune.run(colours, model="random", out=tmp_path / "longer", settings=settings)
        assert not any("optimizer step" in record.message for record in caplog.records)
    assert len((tmp_path / "longer" / "stages" / "01-july" / "training.jsonl").read_text().splitlines()) == 25


def test_the_words_of_a_new_task():
    for interval, word in (((1.0, 5.0), "learned"), ((-1.0, 5.0), "not learned"), ((-5.0, -1.0), "not learned")):
        new = Change("t", "exact", 9, 10.0, 12.0, 12.0, interval, new=True)
        assert new.word == word and RegressionReport(new, ()).learned == (word == "learned")
        assert bool(RegressionReport(new, ()).not_learned()) == (word != "learned")
    assert RegressionReport(None, ()).learned and not ANYTHING.broken_by({})


@pytest.mark.parametrize(
    ("questions", "before", "after", "wanted"),
    [
        (1, 100.0, 100.0, "t has too few questions to tell: from 100.0 to 100.0 on 1 question"),
        (4, 100.0, 0.0, "t has too few questions to tell: from 100.0 to 0.0 on 4 questions"),
    ],
)
def test_too_few_questions_say_nothing_about_the_length_of_training(questions, before, after, wanted):
    """A task that fell from 100 to 0 shows no small gain, and nothing says that longer training helps."""
    few = RegressionReport(Change("t", "exact", questions, before, after, before, None, few=True, new=True), ())
    assert few.not_learned() == [wanted]
    data = CheckResult("t", ("t",))
    console = Console(file=io.StringIO(), width=80)
    done = service.LearnResult(1, "t", few, data, tuple(few.not_learned()), Training(), 200)
    show_learned(console, done, folder="m", data="t.jsonl")
    text = console.file.getvalue()
    assert "train longer" not in text and "at least 6 test questions" in text and "--accept-if 'gain>=-100'" in text


def test_the_summary_has_the_measures_of_accept_if():
    console = Console(file=io.StringIO(), width=80)
    one, other = (Change(name, "exact", 9, 50.0, 40.0, best, (-20.0, 5.0)) for name, best in (("a", 50.0), ("b", 40.0)))
    show_check(console, RegressionReport(None, (one, other)))
    assert "average 40.0 · forgetting 5.0 · worst 10.0 points" in console.file.getvalue()


@pytest.mark.slow
def test_the_log_of_a_model_that_has_learned_nothing(model):
    result = CliRunner().invoke(app, ["log", str(model)])
    assert result.exit_code == 0 and f"{model} has learned nothing yet" in result.stdout.replace("\n", "")


def test_a_folder_that_is_not_there(tmp_path):
    """`is no run folder: it has no config.yaml` sounds as if one were damaged."""
    with pytest.raises(RunFolderError, match="gone is no run folder: it does not exist"):
        service.check(tmp_path / "gone")


def test_a_folder_of_runs_names_one_of_them(tmp_path):
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "config.yaml").write_text("stream: parcel\n")
    with pytest.raises(RunFolderError, match=r"it holds runs; name one of them, e\.g\. .*replay"):
        service.check(tmp_path)


def test_what_is_odd_about_the_data_is_said(model, colours):
    """Beforehand, to people as to machines."""
    path = colours
    gone = {"image": "none.png", "instruction": "Which colour?", "answer": "red"}
    with Path(path).open("a") as file:
        file.write(json.dumps(gone) + "\n")
    photograph = Image.fromarray(coffee()).resize((96, 96))
    for number in range(0, 58, 2):
        photograph.putpixel((number, 5), (0, number, 255))
        photograph.save(Path(path).parent / f"{number}.png")
    with pytest.raises(UserError, match="none.png"):
        service.learn(model, path)
    command = ["learn", str(model), path, "--skip-invalid", "--set", "train.min_steps=1", "--accept-if", "gain>=-100"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    found = json.loads(CliRunner().invoke(app, ["data", "check", path, "--json"]).stdout)
    for finding in found["findings"]:
        if finding["level"] != "note":
            assert finding["kind"] in result.stdout, finding
    assert "left out: missing image: 1, e.g." in result.stdout
    assert {finding["level"] for finding in found["findings"]} >= {"error", "warning"}


def test_a_condition_and_a_stream_of_one_task(model, colours, tmp_path):
    stream = tmp_path / "data" / "one.yaml"
    stream.write_text(yaml.safe_dump({"name": "one", "tasks": [{"name": "one", "data": "july.jsonl"}]}))
    settings = ["train.min_steps=1"]
    done = service.learn(model, str(stream), settings=settings, accept_if=service.parsed("gain>1000"))
    assert done.broken == (f"gain {done.verdict.measures()['gain']:.1f} is not > 1000",)

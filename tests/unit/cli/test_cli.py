"""The command line: fast help, one clear line and exit code 2 for every mistake, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import evertune

from evertune.cli.catalogue import _format as details_of_format
from evertune.cli.main import _broken
from evertune.data.formats import format_names


@pytest.mark.slow
def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys; sys.argv = ['evertune', '--help']\n"
        "import evertune, evertune.cli.main\n"
        "try: evertune.cli.main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib', 'pydantic', 'peft', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in (
        "run",
        "plan",
        "ls",
        "show",
        "compare",
        "report",
        "metrics",
        "doctor",
        "cache",
        "fetch",
        "similarity",
        "pairs",
    ):
        assert command in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "parcell"], "unknown stream 'parcell'; did you mean 'parcel'?"),
        (["run", "parcel", "--method", "sequental"], "unknown method 'sequental'; did you mean 'sequential'?"),
        (["run", "parcel", "--method", "replay+joint"], "'joint' is a bound and runs alone"),
        (["run", "parcel", "--method", "ewc+eproj"], "no earlier weights to hold"),
        (["run", "parcel", "--method", "ewc,ewc"], "different methods"),
        (["run", "parcel", "--model", "smoll"], "unknown model 'smoll'; did you mean 'smol'?"),
        (["run", "parcel", "--set", "train.epoch=2"], "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["run", "parcel", "--set", "trian.epochs=2"], "unknown key 'trian'; did you mean 'train'?"),
        (["run", "parcel", "--set", "epochs"], "write it as key=value"),
        (["run", "parcel", "--set", "train.epochs=many"], "train.epochs"),
        (["run", "parcel", "--set", "train.batch_size=0"], "train.batch_size"),
        (["run", "parcel", "--method", "replay", "--set", "replay.ration=1"], "did you mean 'replay.ratio'?"),
        (["run", "parcel", "--method", "replay", "--set", "replay.ratio=2"], "between 0 and 1"),
        (["run", "parcel", "--method", "replay", "--set", "replay.ratio=x"], "replay.ratio='x'"),
        (["run", "parcel", "--set", "replay.ratio=0.1"], "options are given for 'replay'"),
        (["run", "parcel", "--limit", "0"], "limit"),
        (["run", "none.yaml"], "none.yaml does not exist"),
        (["show", "replai"], "did you mean 'replay'?"),
        (["ls", "method"], "did you mean 'methods'?"),
        (["fetch", "smool"], "did you mean 'smol'?"),
        (["compare", "nowhere"], "nowhere is not a folder"),
        (["similarity", "parcell"], "unknown stream 'parcell'; did you mean 'parcel'?"),
        (["similarity", "none.yaml"], "none.yaml does not exist"),
        (["pairs", "parcell"], "unknown stream 'parcell'; did you mean 'parcel'?"),
        (["pairs", "parcel", "--seeds", "0,x"], "--seeds 0,x: write whole numbers separated by commas"),
        (["pairs", "parcel", "--method", "ewcc"], "unknown method 'ewcc'"),
        (["pairs", "parcel", "--set", "train.epoch=2"], "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["metrics", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evertune.runs.run_data.load_stream", _only_names(monkeypatch))
    code, out, err = evertune(*arguments, capsys=capsys)
    assert code == 2, (out, err)
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing may be written"


def _only_names(monkeypatch):
    """Names are checked for real; the data of `parcel` is not fetched for a mistake elsewhere."""
    from evertune.data import Stream, load_stream
    from evertune.training.method_contract import toy_tasks

    def load(name, *, limit=None, **rest):
        if name != "parcel" or (limit is not None and limit < 1):
            return load_stream(name, limit=limit, **rest)
        import tempfile
        from pathlib import Path

        return Stream("parcel", tuple(toy_tasks(Path(tempfile.mkdtemp()))))

    return load


@pytest.mark.slow
def test_show_and_ls(capsys):
    code, out, _ = evertune("ls", "methods", "--json", capsys=capsys)
    names = {row["name"] for row in json.loads(out)}
    assert code == 0 and {"sequential", "direct", "joint", "replay", "ewc", "eproj"} <= names
    for name in [*names, "parcel", "smol"]:
        code, out, _ = evertune("show", name, "--json", capsys=capsys)
        assert code == 0 and json.loads(out)
    code, out, _ = evertune("ls", "formats", "--json", capsys=capsys)
    formats = {row["name"] for row in json.loads(out)}
    assert code == 0 and {"jsonl", "llava", "table", "huggingface", "vqav2"} <= formats
    for name in formats:
        code, out, _ = evertune("show", name, "--json", capsys=capsys)
        assert code == 0 and "options" in json.loads(out)
    _, out, _ = evertune("show", "table", capsys=capsys)
    assert "separator" in out and "'instruction'" in out
    _, out, _ = evertune("show", "parcel", capsys=capsys)
    assert "CC BY-SA 4.0" in out and "MIT" in out
    _, out, _ = evertune("show", "ewc", capsys=capsys)
    assert "1612.00796" in out and "ewc.strength" in out
    _, out, _ = evertune("show", "replay", capsys=capsys)
    assert "share of each earlier task's training set" in out and "(float, default 0.01)" in out


def test_every_option_of_a_method_says_what_it_means():
    """`show` listed names and defaults alone."""
    from evertune.cli.catalogue import meanings_of
    from evertune.methods import METHODS, options_of

    for name, method in METHODS.items():
        assert not set(options_of(name)) - set(meanings_of(method)), name


def test_every_option_of_a_format_says_what_it_means():
    """`show` listed defaults alone."""
    for name in format_names():
        options = details_of_format(name)["options"]
        assert not [option for option, meaning in options.items() if meaning.startswith("(")], name


def test_show_adds_up_the_samples_of_a_stream(capsys):
    _, out, _ = evertune("show", "parcel", "--json", capsys=capsys)
    about, *_ = json.loads(out).values()
    assert about == {"tasks": 5, "training samples": 3520, "test samples": 400, "probes": 2}


def test_the_lists_of_data_load_no_torch():
    """`ls streams` imported every method, and torch with them."""
    code = (
        "import sys\nfrom evertune.cli.catalogue import details, listing\n"
        "[listing(what) for what in ('streams', 'models', 'formats')]\ndetails('parcel')\ndetails('table')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_list_in_an_error_keeps_its_lines_on_a_terminal():
    """The findings of `data convert` ran into one another."""
    text = "evertune: 3 rows can't be used:\n  broken JSON: 1\n    d.jsonl:23: not valid JSON, column 2"
    lines = _broken(text, width=26).splitlines()
    assert lines == [
        *("evertune: 3 rows can't be", "used:", "  broken JSON: 1"),
        *("    d.jsonl:23: not valid", "    JSON, column 2"),
    ]


def test_metrics_command(capsys, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("0,0,0\n80,5,10\n60,70,12\n75,72,65\n")
    code, out, _ = evertune("metrics", path, "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["metrics"]["bwt"] == -1.5
    _, out, _ = evertune("metrics", path, capsys=capsys)
    lines = [line.split() for line in out.splitlines()]
    assert "backward transfer −1.5 1/(T-1) Σ_{i<T} (R[T,i] - R[i,i])".split() in lines
    assert "gap to joint - needs a run of joint on the same tasks".split() in lines


def test_metrics_command_with_known_tasks(capsys, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("60,5,10\n65,80,20\n55,70,90\n")
    code, out, _ = evertune("metrics", path, "--known", "1", "--json", capsys=capsys)
    result = json.loads(out)
    assert code == 0 and result["metrics"]["forgetting"] == 10 and "a_i" in result["formulas"]["forgetting"]


def test_show_of_a_run_folder_names_the_commands_for_it(capsys, tmp_path):
    code, _, said = evertune("show", tmp_path, capsys=capsys)
    assert code == 2 and f"{tmp_path} is a folder; show takes the name of a method" in said and "evertune log" in said


def test_show_a_stream_with_known_tasks_and_scores(capsys, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nknown: [{name: old, data: o.jsonl, score: cider}]\ntasks: [{name: new, data: n.jsonl, score: vqa}]"
    )
    code, out, _ = evertune("show", path, "--json", capsys=capsys)
    sections = json.loads(out)
    assert code == 0 and list(sections) == ["s: ", "known: old", "1. new"]
    assert sections["s: "] == {"known": 1, "tasks": 1}
    assert sections["known: old"]["score"].startswith("cider (CIDEr-D x 100")


@pytest.mark.slow
def test_show_says_once_what_all_tasks_of_a_stream_share(capsys):
    """`show coin` printed source, files, citation and training settings of the data set for each of its tasks."""
    _, out, _ = evertune("show", "coin", capsys=capsys)
    assert out.count("Instructions_Original/") == 2  # the stream, and the format of this name
    _, out, _ = evertune("show", "coin", "--json", capsys=capsys)
    sections = json.loads(out)
    assert list(sections)[1:3] == ["all tasks", "1. ScienceQA"]
    assert sections["all tasks"]["format"] == "coin" and "format" not in sections["1. ScienceQA"]
    assert sections["1. ScienceQA"]["task"] == "ScienceQA"


@pytest.mark.slow
def test_doctor(capsys, monkeypatch):
    times = {what: {"float32": 0.5, "bfloat16": 0.4} for what in ("step", "answer")}  # measured: half a minute
    monkeypatch.setattr("evertune.models.auto_dtype.seconds_of_run", lambda device: times)
    code, out, _ = evertune("doctor", "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["dtype chosen"] in ("float32", "bfloat16")

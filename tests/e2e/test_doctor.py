"""`evertune doctor RUN`: every file that is changed, cut or gone is named; `--repair` makes it again to the bit."""

from __future__ import annotations

import json
import shutil

import pytest
from test_run import significant
from typer.testing import CliRunner

from evertune import run as evertune_run
from evertune.cli.main import app
from evertune.service.integrity import examine, repair
from evertune.utils.errors import RunFolderError
from evertune.utils.temporary_files import temporary_name

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "dtype=float32", "ewc.samples=4"]


@pytest.fixture(scope="module")
def whole(toy_stream, tmp_path_factory):
    out = tmp_path_factory.mktemp("doctor") / "run"
    evertune_run(str(toy_stream), model="random", methods="replay+ewc", out=out, settings=SETTINGS)
    return out


@pytest.fixture
def broken(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def change(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def remove(path):
    path.unlink()


def spoil_line(path):
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:3], lines[3][:20], *lines[4:]]))


def test_a_whole_run_is_whole(whole):
    assert examine(whole) == []


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("stages/02-task-1/trainable.safetensors", change),
        ("stages/02-task-1/method.safetensors", cut),
        ("stages/02-task-1/done.json", remove),
        ("stages/02-task-1/done.json", cut),
        ("stages/03-task-2/training.jsonl", change),
        ("answers/01/task-0.jsonl", change),
        ("answers/03/task-2.jsonl", remove),
        ("matrix.json", cut),
        ("provenance.json", remove),
    ],
)
def test_what_is_broken_is_named_and_made_again(whole, broken, file, harm):
    harm(broken / file)
    found = examine(broken)
    assert any(str(finding.path).startswith(str((broken / file).parent)) for finding in found), found
    assert repair(broken).left == []
    assert significant(broken) == significant(whole)
    assert examine(broken) == []


def test_a_stage_that_is_gone_is_taught_again(whole, broken):
    shutil.rmtree(broken / "stages" / "02-task-1")
    assert [finding.stage for finding in examine(broken) if finding.stage] == [2]
    with pytest.raises(RunFolderError, match="stage 2 is missing, though stage 3 is there"):
        repair_not_needed(broken)
    assert repair(broken).left == []
    assert significant(broken) == significant(whole)


def repair_not_needed(folder):
    from evertune.runs.api import open_run

    return open_run(folder)


def test_a_damaged_line_of_the_ledger(whole, broken):
    spoil_line(broken / "ledger.jsonl")
    first = examine(broken)[0]
    assert (first.path.name, first.what) == ("ledger.jsonl", "line 4 is damaged")
    assert repair(broken).left == []
    assert significant(broken) == significant(whole)


def test_only_what_is_broken_is_touched(broken):
    change(broken / "answers" / "02" / "task-1.jsonl")
    before = {p: p.stat().st_mtime_ns for p in broken.rglob("*") if p.is_file()}
    repair(broken)
    derived = {p for p in before if p.parent.name == "tensorboard"} | {
        broken / "report" / "index.html",
        broken / ".lock",
    }
    touched = {str(p.relative_to(broken)) for p, t in before.items() if p not in derived and p.stat().st_mtime_ns != t}
    assert touched <= {"answers/02/task-1.jsonl", "ledger.jsonl", "matrix.json"}


def test_the_command(broken):
    temporary = temporary_name(broken / "matrix.json")
    temporary.write_text("half")
    change(broken / "stages" / "01-task-0" / "trainable.safetensors")
    result = CliRunner().invoke(app, ["doctor", str(broken), "--json"])
    paths = [finding["path"] for finding in json.loads(result.stdout)["left"]]
    assert result.exit_code == 1
    assert paths == [str(broken / "stages" / "01-task-0" / "trainable.safetensors"), str(temporary)]
    mended = CliRunner().invoke(app, ["doctor", str(broken), "--repair"])
    assert mended.exit_code == 0 and "every checksum is right" in mended.stdout and not temporary.exists()
    assert CliRunner().invoke(app, ["doctor", str(broken)]).exit_code == 0


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="is no run folder"):
        examine(tmp_path)

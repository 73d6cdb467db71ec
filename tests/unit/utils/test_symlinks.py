"""A received run folder with links in it: nothing is written through one, by any command, and the error is one line."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import evertune
from evertune import service
from evertune.cli.main import app
from evertune.experiments.grid import Grid
from evertune.experiments.grid.cells import cells_of, read_grid
from evertune.experiments.grid.workers import Job, start
from evertune.reporting.page import write_report
from evertune.runs.tracking.jsonl import Jsonl
from evertune.runs.tracking.protocol import RunInfo
from evertune.service.integrity import examine, repair
from evertune.service.lifecycle import history
from evertune.service.service import Service
from evertune.tools.export import export
from evertune.training.learner import Learner
from evertune.utils import locks
from evertune.utils.errors import UserError
from evertune.utils.files import append_jsonl, opened
from evertune.utils.locks import Lock, taken
from evertune.utils.symlinks import links_below, refuse_links
from evertune.utils.temporary_files import sweep, temporary_name

SETTINGS = ["train.epochs=1", "train.batch_size=8"]
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nno newline"


def run_of(toy_stream, out):
    return evertune.run(str(toy_stream), model="random", methods="sequential", out=out, settings=SETTINGS)


@pytest.fixture(scope="module")
def finished(toy_stream, tmp_path_factory):
    """A finished run with everything that a folder may hold; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_of(toy_stream, folder)
    service.check(folder)
    assert {"answers", "eval_set", "stages", "tensorboard", "report"} <= {path.name for path in folder.iterdir()}
    return folder


def everything(folder):
    """What is in a folder: contents, and times of writing."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


COMMANDS = {
    "run": lambda folder, toy: run_of(toy, folder),
    "learn": lambda folder, toy: service.learn(folder, str(toy), name="more"),
    "check": lambda folder, toy: service.check(folder),
    "check --every-stage": lambda folder, toy: service.complete(folder),
    "rollback": lambda folder, toy: service.rollback(folder, 0),
    "forget": lambda folder, toy: service.forget(folder, "task-0"),
    "doctor --repair": lambda folder, toy: repair(folder),
    "ask, serve, app": lambda folder, toy: Service.open(folder),
    "advise": lambda folder, toy: service.advice(folder, str(toy), name="more"),
    "export": lambda folder, toy: export(folder, folder.parent / "exported", adapters=True),
    "report": lambda folder, toy: write_report([folder], folder.parent / "report.html"),
    "log": lambda folder, toy: history(folder),
    "the library": lambda folder, toy: Learner(None, (), folder=folder),
}
"""Each command that opens a run folder."""


def parts_of(folder):
    """Every file and folder of a run; of alike ones (images, answers) the first two are enough."""
    kinds: dict[tuple[str, str], int] = {}
    for path in sorted(folder.rglob("*")):
        kind = (re.sub(r"\d+", "0", str(path.parent.relative_to(folder))), path.suffix if path.is_file() else "/")
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= (2 if path.parent != folder else 100):
            yield path.relative_to(folder)


def test_every_part_of_a_run_as_a_link_under_every_command(finished, toy_stream, tmp_path):
    """The link leads to what was there, so that nothing but the link itself can be found wrong."""
    for number, part in enumerate(parts_of(finished)):
        place, victim = tmp_path / f"{number}" / "run", tmp_path / f"{number}" / "victim" / part.name
        shutil.copytree(finished, place)
        victim.parent.mkdir()
        shutil.move(place / part, victim)
        (place / part).symlink_to(victim, target_is_directory=victim.is_dir())
        before = everything(place.parent)
        for name, command in COMMANDS.items():
            with pytest.raises(UserError) as caught:
                command(place, toy_stream)
            message = str(caught.value)
            assert str(place / part) in message and "is a symbolic link" in message, f"{name} with {part}: {message}"
            assert "\n" not in message
            assert everything(place.parent) == before, f"{name} wrote, with {part} as a link"
        (found,) = examine(place)
        assert found.path == place / part and "is a symbolic link" in found.what and not found.remedy
        shutil.rmtree(place.parent)


def test_links_that_lead_nowhere_make_nothing(finished, toy_stream, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    for name in (".lock", ".lock.holder", "metrics.jsonl", "new", "answers/check/x.jsonl"):
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(tmp_path / "made")
    before = everything(tmp_path)
    for command in COMMANDS.values():
        with pytest.raises(UserError, match="is a symbolic link"):
            command(place, toy_stream)
    assert everything(tmp_path) == before and not (tmp_path / "made").exists()
    assert {finding.path for finding in examine(place)} == set(links_below(place)) and len(links_below(place)) == 5
    message = CliRunner().invoke(app, ["doctor", str(place)])
    assert message.exit_code == 1 and "is whole" not in message.output and "--repair" not in message.output
    assert ".lock is a symbolic link" in " ".join(message.output.split())


def test_a_new_run_beside_a_linked_lock_or_below_linked_methods(toy_stream, tmp_path):
    victim = tmp_path / "key"
    victim.write_bytes(KEY)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match=r"new/.lock is a symbolic link"):
        run_of(toy_stream, tmp_path / "new")
    with pytest.raises(UserError, match=r"new/.lock is a symbolic link"):
        service.new(tmp_path / "new", model="random", method="replay")
    for name in ("report", "ewc"):
        base, other = tmp_path / f"of-{name}", tmp_path / f"other-{name}"
        base.mkdir()
        other.mkdir()
        (base / name).symlink_to(other)
        with pytest.raises(UserError, match=rf"of-{name}/{name} is a symbolic link"):
            evertune.run(str(toy_stream), model="random", methods="sequential,ewc", out=base, settings=SETTINGS)
        assert not any(other.iterdir())
    assert victim.read_bytes() == KEY


@pytest.mark.parametrize("part", ["toy-random", "toy-random/sequential", "toy-random/sequential/s0"])
def test_folders_of_a_grid_that_are_links(toy_stream, tmp_path, part):
    spec = {"name": "g", "streams": [str(toy_stream)], "models": ["random"], "methods": ["sequential"], "seeds": [0]}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(spec))
    cells = cells_of(read_grid(tmp_path / "g.yaml"), out=tmp_path / "grid")
    assert [cell.name for cell in cells] == ["toy-random/sequential/s0"]
    (tmp_path / "victim").mkdir()
    (tmp_path / "grid" / part).parent.mkdir(parents=True)
    (tmp_path / "grid" / part).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=rf"grid/{part} is a symbolic link"):
        Grid(cells)
    assert not any((tmp_path / "victim").iterdir())


# The writers, one by one, where nobody has looked at the folder before


def tracked(path):
    return RunInfo(folder=path.parent, key="", name="n", group="g", config={}, provenance={})


WRITERS = {
    "ledger.jsonl": lambda path: append_jsonl(path, {"event": "x"}),
    ".lock": taken,
    "metrics.jsonl": lambda path: Jsonl().begin(tracked(path)),
    "job.log": lambda path: start(Job("j", ("true",), beside=path.with_name("job")), Lock(path, None), environment={}),
}  # fmt: skip


def test_a_link_that_was_put_there_after_the_check_is_not_followed(tmp_path, monkeypatch):
    """The system itself refuses it: the check by name alone has a gap."""
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "log").symlink_to(tmp_path / "key")
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "log")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a hard link", "a pipe"])
def test_writers_in_place_open_no_link(tmp_path, name, kind):
    victim, path = tmp_path / "key", tmp_path / "run" / name
    path.parent.mkdir()
    if kind != "a link to nothing":
        victim.write_bytes(KEY)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a hard link":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim)
    message = {"a hard link": "has another name", "a pipe": "is no regular file"}.get(kind, "is a symbolic link")
    with pytest.raises(UserError, match=rf"{re.escape(name)}(: it| can't be read: it)? {message}"):
        WRITERS[name](path)
    assert victim.read_bytes() == KEY if kind != "a link to nothing" else not victim.exists()


def test_the_holder_of_a_marker_is_not_written_through_a_link(tmp_path, monkeypatch):
    def missing(handle):
        raise OSError(locks.NO_FLOCK[0], "no flock here")

    monkeypatch.setattr(locks, "_flock", missing)
    (tmp_path / "key").write_bytes(KEY)
    locks.holder_file(tmp_path / "run" / ".lock").parent.mkdir()
    locks.holder_file(tmp_path / "run" / ".lock").symlink_to(tmp_path / "key")
    lock = taken(tmp_path / "run" / ".lock")
    lock.sign()
    lock.close()
    assert (tmp_path / "key").read_bytes() == KEY


def test_leftovers_that_are_links_are_removed_themselves(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_bytes(KEY)
    (tmp_path / "run").mkdir()
    temporary_name(tmp_path / "run" / "x").symlink_to(tmp_path / "victim")
    sweep(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir()) and (tmp_path / "victim" / "file").read_bytes() == KEY


def test_links_that_wandb_makes_are_its_own(tmp_path):
    """`wandb/latest-run` is one; what leads out of its folder is refused there too."""
    runs = tmp_path / "wandb" / "run-1" / "logs"
    runs.mkdir(parents=True)
    (runs / "debug.log").write_text("")
    (tmp_path / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "wandb" / "debug.log").symlink_to("run-1/logs/debug.log")
    assert links_below(tmp_path) == []
    (tmp_path / "wandb" / "out").symlink_to("../config.yaml")
    with pytest.raises(UserError, match=r"wandb/out is a symbolic link \(to '../config.yaml'\)"):
        refuse_links(tmp_path)


def test_a_linked_run_folder_is_the_users_own(finished, tmp_path):
    (tmp_path / "run").symlink_to(finished)
    assert len(history(tmp_path / "run")) == 3 and examine(tmp_path / "run") == []


def test_nothing_else_opens_files_to_write_in_place():
    """A new writer uses `write_atomically`, `whole_file` or `opened`, or is put into this list with its reason."""
    allowed = {
        "utils/files.py": 2,  # `opened` itself, and the temporary file of `write_atomically`
        "data/rows.py": 4,  # in a new folder of the cache
        "assets/pypi.py": 1,  # in a temporary folder
        "tools/data/writers.py": 3,  # "x": a new file, where the user says
    }
    source = Path(evertune.__file__).parent
    found = {}
    for path in sorted(source.rglob("*.py")):
        writes = r"""open\([^()]*["'][rb]*[waxr]b?\+?["']|write_text\(|write_bytes\(|O_CREAT"""
        lines = [line for line in path.read_text().splitlines() if re.search(writes, line)]
        lines = [line for line in lines if not re.search(r"""open\([^()]*["'](r|rb)["']""", line)]
        if lines:
            found[str(path.relative_to(source))] = len(lines)
    assert found == allowed

"""A plugged-in method in runs, grids and service: its code is part of the run; no folder makes evertune import it."""

from __future__ import annotations

import json
import runpy
import shutil

import pytest
import yaml
from commands import evertune as command
from plugging import OWN, write_plugin

import evertune
from evertune import service
from evertune.experiments.grid.cells import cells_of, read_grid
from evertune.experiments.grid.run import Grid, GridCallback
from evertune.runs.api import config_of, configure, open_run
from evertune.runs.run_folder import read_identity
from evertune.utils import plugins
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.plugins import load_plugin

EDITED = OWN.replace("mul_(self.alpha)", "mul_(0.5 * self.alpha)")
METHOD = {"methods": {"own": "own_methods:Own"}}
TRACE = "import pathlib\npathlib.Path(__file__).with_name('was-run').touch()\n"


def run(stream, out, **given):
    return evertune.run(str(stream), model="random", methods="own", out=out, limit=6, **given)


@pytest.fixture(scope="module")
def made(toy_stream, tmp_path_factory):
    """A run of `--plugin own.py`, made in a process of its own, as a run from elsewhere is; not to be changed."""
    import subprocess

    from warm import python

    place = tmp_path_factory.mktemp("made")
    write_plugin(place / "own.py", TRACE + OWN)
    arguments = ("run", toy_stream, "--model", "random", "--method", "own", "--limit", "6", "--out", place / "run")
    own = ("--plugin", place / "own.py", "--set", "own.alpha=0.9")
    line = [python(), "-m", "evertune", *map(str, (*arguments, *own))]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (place / "was-run").unlink()
    return place


@pytest.fixture
def received(made, tmp_path):
    return shutil.copytree(made, tmp_path / "received")


def test_the_folder_records_the_code_and_who_brought_it(made):
    assert read_identity(made / "run")["code"] == {
        "methods": {"own": {"code": plugins.hash_of([made / "own.py"]), "from": f"--plugin {made / 'own.py'}"}}
    }
    assert config_of(made / "run").options == {"own": {"alpha": 0.9}}


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "RUN", "what?"],
        ["export", "RUN", "--to", "OUT"],
        ["serve", "RUN", "--port", "0"],
        ["learn", "RUN", "STREAM"],
        ["check", "RUN"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_received_folder_never_makes_evertune_import_a_file(plugged, received, toy_stream, arguments, capsys):
    identity = yaml.safe_load((received / "run" / "config.yaml").read_text())
    identity["code"]["methods"]["own"]["from"] = f"--plugin {received / 'own.py'}"  # a file that is there
    (received / "run" / "config.yaml").write_text(yaml.safe_dump(identity, sort_keys=False))
    named = {"RUN": received / "run", "OUT": received / "out", "STREAM": toy_stream}
    code, _, said = command(*(named.get(each, each) for each in arguments), capsys=capsys)
    assert code == 2
    assert f"give it to this command, if you trust the file: --plugin {received / 'own.py'}" in said
    assert not (received / "was-run").exists()


def test_the_record_of_a_folder_is_no_run_s_yaml(plugged, received, capsys):
    path = received / "run" / "config.yaml"
    path.write_text(f"plugins: [{received / 'own.py'}]\n{path.read_text()}")
    for what in ("run", "grid", "study", "plan"):
        code, _, said = command(what, path, capsys=capsys)
        assert code == 2 and "is the record of a run folder" in said
    assert not (received / "was-run").exists()


def test_commands_that_do_not_need_the_method_go_on(plugged, received, capsys):
    for arguments in (["compare", received / "run"], ["log", received / "run"], ["doctor", received / "run"]):
        assert command(*arguments, capsys=capsys)[0] == 0
    assert not (received / "was-run").exists()


def test_with_the_plugin_it_is_asked(plugged, received, capsys):
    code, said, _ = command("ask", received / "run", "what?", "--plugin", received / "own.py", capsys=capsys)
    assert code == 0 and said.strip()
    assert (received / "was-run").exists()


def test_with_a_changed_plugin_it_is_refused(plugged, received, toy_stream, capsys):
    write_plugin(received / "own.py", TRACE + EDITED)
    for arguments in (["ask", received / "run", "what?"], ["learn", received / "run", toy_stream]):
        code, _, said = command(*arguments, "--plugin", received / "own.py", capsys=capsys)
        assert code == 2 and "the method 'own' of --plugin" in said and "whose code has changed since" in said


@pytest.mark.slow
def test_a_changed_method_is_refused_by_run_and_not_answered_from_a_cache(plugged, toy_stream, tmp_path):
    load_plugin(write_plugin(tmp_path / "own.py"))
    first = run(toy_stream, tmp_path / "run")
    assert run(toy_stream, tmp_path / "run").runs["own"].matrix.R == first.runs["own"].matrix.R
    load_plugin(write_plugin(tmp_path / "own.py", EDITED))
    with pytest.raises(
        RunFolderError, match=r"made with other code: the method 'own' has changed since\. Choose another"
    ):
        run(toy_stream, tmp_path / "run")
    load_plugin(write_plugin(tmp_path / "own.py", OWN))
    assert run(toy_stream, tmp_path / "run").runs["own"].matrix.finished


@pytest.mark.slow
def test_what_only_changes_the_data_is_not_reused_after_an_edit(plugged, toy_stream, tmp_path):
    """Such a method adds nothing to the loss, so that its trainings are cached."""
    text = OWN.replace("def after_backward(self, parameters):", "def before_task(self, task):\n        return\n")
    text = text[: text.index("        for parameter")]
    reused = []
    for number, each in enumerate((text, text, text + "\n# edited\n")):
        load_plugin(write_plugin(tmp_path / "own.py", each))
        result = run(toy_stream, tmp_path / f"run{number}", seed=4711)
        reused.append(result.runs["own"].matrix.cost["stages_reused"])
    assert reused == [0, 3, 0]


@pytest.mark.slow
def test_another_place_of_the_same_file_is_the_same_run(plugged, toy_stream, tmp_path):
    load_plugin(write_plugin(tmp_path / "own.py"))
    run(toy_stream, tmp_path / "run")
    plugins._given.clear()
    (tmp_path / "elsewhere").mkdir()
    load_plugin(write_plugin(tmp_path / "elsewhere" / "own.py"))
    assert run(toy_stream, tmp_path / "run").runs["own"].matrix.finished
    assert open_run(tmp_path / "run").methods[0].name == "own"


@pytest.mark.slow
def test_the_run_of_a_package_opens_by_itself(plugged, toy_stream, tmp_path):
    plugged.installed(tmp_path / "site", name="own-methods", entries=METHOD)
    run(toy_stream, tmp_path / "run")
    assert open_run(tmp_path / "run").methods[0].name == "own"
    (tmp_path / "site" / "own_methods" / "__init__.py").write_text(EDITED)
    plugged.forget()
    with pytest.raises(RunFolderError, match=r"of the package own-methods 1\.0, whose code has changed since"):
        open_run(tmp_path / "run")


@pytest.mark.slow
def test_a_package_that_is_gone_is_named(plugged, toy_stream, tmp_path):
    plugged.installed(tmp_path / "site", name="own-methods", entries=METHOD)
    run(toy_stream, tmp_path / "run")
    (tmp_path / "site" / "own_methods-1.0.dist-info" / "entry_points.txt").unlink()
    plugged.forget()
    with pytest.raises(RunFolderError, match=r"of the package own-methods 1\.0, which is not here: install it"):
        open_run(tmp_path / "run")


def test_a_model_in_service_records_it_too(plugged, toy_stream, tmp_path):
    load_plugin(write_plugin(tmp_path / "own.py"))
    service.new(tmp_path / "model", model="random", method="own")
    assert read_identity(tmp_path / "model")["code"]["methods"]["own"]["from"] == f"--plugin {tmp_path / 'own.py'}"
    load_plugin(write_plugin(tmp_path / "own.py", EDITED))
    with pytest.raises(RunFolderError, match="whose code has changed since"):
        service.Service.open(tmp_path / "model")


def test_a_run_s_yaml_lists_its_plugins_from_its_place(plugged, toy_stream, tmp_path):
    write_plugin(tmp_path / "own.py")
    path = tmp_path / "wanted.yaml"
    path.write_text(yaml.safe_dump({"stream": str(toy_stream), "plugins": ["own.py"], "method": "own", "own.alpha": 2}))
    assert configure(path).options == {"own": {"alpha": 2}}
    path.write_text(yaml.safe_dump({"stream": str(toy_stream), "plugins": "own.py"}))
    with pytest.raises(UserError, match=r"plugins: expected a list"):
        configure(path)


def grid(toy_stream, place, **more):
    write_plugin(place / "own.py", more.pop("text", OWN))
    content = {"name": "g", "streams": [str(toy_stream)], "models": ["random"], "methods": ["own"], "limit": 4}
    (place / "g.yaml").write_text(yaml.safe_dump({**content, "plugins": ["own.py"], **more}))
    cells = cells_of(read_grid(place / "g.yaml"), out=place / "out")
    return Grid(cells, jobs=1)


@pytest.mark.thorough
@pytest.mark.slow
def test_the_workers_of_a_grid_know_it_and_notice_a_change(plugged, toy_stream, tmp_path):
    first = grid(toy_stream, tmp_path)
    first.run(GridCallback())
    assert not first.failed, first.failed
    (cell,) = first.cells.values()
    assert f"--plugin {tmp_path / 'own.py'}" in cell.file("log").read_text()
    assert all(grid(toy_stream, tmp_path).done.values())
    changed = grid(toy_stream, tmp_path, text=EDITED)
    assert not any(changed.done.values())
    changed.run(GridCallback())
    assert "the method 'own' has changed since" in " ".join(changed.failed.values())


@pytest.mark.slow
def test_ls_and_show_know_plugins_and_say_whose_they_are(plugged, tmp_path, capsys):
    plugged.installed(tmp_path, name="own-broken", text="import no_such", entries={"methods": {"bad": "own_broken:X"}})
    path = write_plugin(tmp_path / "own.py")
    code, said, _ = command("ls", "methods", "--json", "--plugin", path, capsys=capsys)
    rows = {row["name"]: row for row in json.loads(said)}
    assert code == 0 and rows["own"]["from"] == f"--plugin {path}"
    assert "own-broken 1.0 can't be imported" in rows["bad"]["title"] and "from" not in rows["replay"]
    code, said, _ = command("show", "own", "--plugin", path, capsys=capsys)
    assert code == 0 and "own.alpha" in said
    code, _, said = command("show", "bad", capsys=capsys)
    assert code == 2 and "Traceback" in said and "the package own-broken 1.0 can't be imported" in said


def test_a_plugin_that_fails_says_so_above_one_line(plugged, tmp_path, capsys):
    code, _, said = command("ls", "--plugin", write_plugin(tmp_path / "own.py", "1 / 0\n"), capsys=capsys)
    *above, last = said.strip().splitlines()
    assert (
        code == 2
        and last == f"evertune: --plugin {tmp_path / 'own.py'} can't be imported: ZeroDivisionError: division by zero"
    )
    assert above[0].startswith("Traceback") and any("own.py" in line for line in above)


@pytest.mark.slow
def test_the_class_of_an_object_is_part_of_the_run_too(plugged, toy_stream, tmp_path):
    """Its folder is opened again where the class is there, and only with the same code."""

    def kind(text):
        path = write_plugin(tmp_path / "own_objects.py", text)
        found = runpy.run_path(str(path))["Own"]
        found.__module__ = "__main__"  # as a script or a notebook defines it
        return found

    first = kind(OWN)
    evertune.run(str(toy_stream), model="random", methods=[first(alpha=0.5)], out=tmp_path / "run", limit=4)
    assert open_run(tmp_path / "run").methods[0].alpha == 0.5
    plugins._added.clear()
    with pytest.raises(
        RunFolderError, match=r"the method 'own' of this program, which is not here: load the file .* --plugin FILE\.py"
    ):
        open_run(tmp_path / "run")

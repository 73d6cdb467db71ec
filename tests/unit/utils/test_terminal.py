"""What strangers wrote (names, events, predictions) steers no terminal: control characters and markup are shown."""

from __future__ import annotations

import io
import json
import re
import shutil

import pytest
from rich.table import Table

from evertune.cli.console import TerminalCallback
from evertune.cli.main import main
from evertune.cli.printing import show_facts
from evertune.cli.service_view import show_findings, show_history
from evertune.service.integrity import Finding
from evertune.utils.terminal import CONTROL, Terminal, plain

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e[bold]x[/bold][link=file:///etc/passwd]y[/link][/nothing]"
"""Title, clear, colour by C1, overwriting, backwards; then markup, a link and a tag that was never opened."""
SHOWN = "[bold]x[/bold][link=file:///etc/passwd]y[/link][/nothing]"


def terminal():
    return Terminal(file=io.StringIO(), width=400, force_terminal=True, color_system="truecolor")


def written(console):
    """What reached the terminal, without the colours that are ours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


def refuse_control(text):
    assert not CONTROL.search(text), repr(text)
    assert "file:///etc/passwd" in text and SHOWN in text


def history(console):
    row = {"event": "rollback", "to": 0, "tasks": [EVIL], "reason": EVIL, "time": 0}
    show_history(console, [{"event": "stage", "stage": 1, "task": EVIL, "time": 0}, row], folder=EVIL)


def nothing_learned(console):
    show_history(console, [], folder=EVIL)


def findings(console):
    found = Finding(f"runs/{EVIL}", EVIL, EVIL)
    show_findings(console, [found], [found], folder=f"runs/{EVIL}", repaired=False)
    show_findings(console, [found], [], folder=f"runs/{EVIL}", repaired=True)


def table(console):
    """A table whose cells nobody has escaped: control characters go all the same."""
    made = Table()
    made.add_column("x")
    made.add_row(EVIL)
    console.print(made)


def row(console):
    callback = TerminalCallback(console)
    callback.on_run_begin("run", training=[1], answers=1)
    callback.on_row_end(0, EVIL, [1.0], [EVIL])
    callback.on_row_end(1, EVIL, [1.0], [EVIL])


SHOWS = {
    "history": history,
    "nothing learned": nothing_learned,
    "findings": findings,
    "table": table,
    "row": row,
    "facts": lambda console: show_facts(console, "title", {"name": EVIL}),
    "notice": lambda console: TerminalCallback(console).on_warning(EVIL),
    "run": lambda console: TerminalCallback(console).on_run_begin(EVIL, training=[1], answers=1),
    "resumed": lambda console: TerminalCallback(console).on_environment_changed([EVIL]),
    "model": lambda console: TerminalCallback(console).on_model_loaded(EVIL, {"dtype": EVIL}),
}


@pytest.mark.parametrize("show", SHOWS)
def test_nothing_steers_the_terminal(show):
    console = terminal()
    SHOWS[show](console)
    refuse_control(written(console).replace("\n", ""))


def test_progress_bars():
    console = terminal()
    with TerminalCallback(console) as callback:
        callback.on_run_begin("run", training=[1], answers=1)
        callback._bar("stage", EVIL, 1, note="")
        callback._progress.refresh()
    ours = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", console.file.getvalue())
    assert not CONTROL.search(ours.replace("\n", "")) and "\ufffd" in ours, repr(ours)  # the name itself is cut


def test_ordinary_text_is_left_alone():
    text = "été 日本語 العربية 😀\ta\n[x]"
    assert plain(text) == text


def test_the_command_log_and_an_error(taught, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(taught / "sequential", tmp_path / "run")
    with (folder / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps({"event": "stage", "stage": 9, "task": EVIL, "time": 0}) + "\n")
    monkeypatch.setattr("sys.argv", ["evertune", "log", str(folder)])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main()
    refuse_control(capsys.readouterr().out.replace("\n", ""))
    monkeypatch.setattr("sys.argv", ["evertune", "log", f"none{EVIL}"])
    with pytest.raises(SystemExit):
        main()
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and not CONTROL.search(errors) and "[bold]x[/bold]" in errors

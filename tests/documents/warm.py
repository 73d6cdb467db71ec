"""A process that has imported everything and forks itself for each command: a page of them then takes seconds.

`python warm.py SOCKET` serves; the `evertune` and `python` that `install` puts into a folder send their arguments,
environment and open files, and end with the exit code of the fork. A fork is a process of its own in which
`evertune.cli.main.main` runs as in any other; only the two seconds of importing are saved.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

IMPORTED = (
    *("cli.main", "runs.api", "runs.plan.planner", "training.learner", "reporting", "service"),
    *("experiments.grid", "experiments.study", "tools.data", "tools.export", "tools.rescore"),
)
IMPORTED = (*(f"evertune.{name}" for name in IMPORTED), "peft", "skimage.data", "sklearn.datasets")

CLIENT = """#!{python} -SE
import array, json, os, socket, sys
arguments = sys.argv[1:]
if {is_python} and (not arguments or arguments[0] in ("-", "-c")):
    os.execv({python!r}, [{python!r}, *arguments])
door = socket.socket(socket.AF_UNIX)
door.connect({socket!r})
request = json.dumps([{is_python}, arguments, os.getcwd(), dict(os.environ)]).encode()
door.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
door.sendall(request)
sys.exit(int(door.recv(8) or b"70"))
"""


def install(folder: Path, place: str) -> None:
    """Write the `evertune` and the `python` that ask the server at `place`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("evertune", "python"):
        program = folder / name
        program.write_text(CLIENT.format(python=sys.executable, socket=place, is_python=name == "python"))
        program.chmod(0o755)


def serve(place: str) -> None:
    """Answer until killed, or until the tests that began it are gone."""
    tests = os.getppid()
    warm_up()
    door = socket.socket(socket.AF_UNIX)
    door.bind(place)
    door.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: they answer themselves
    door.settimeout(2)
    while os.getppid() == tests:
        try:
            client, _ = door.accept()
        except TimeoutError:
            continue
        with client:
            if os.fork() == 0:
                door.close()
                answer(client)


def warm_up() -> None:
    """Import what the commands import."""
    from evertune.models import load_lmm

    for name in IMPORTED:
        importlib.import_module(name)
    load_lmm("random")


def answer(client: socket.socket) -> None:
    """Be the program that was asked for; never returns."""
    head, extra, *_ = client.recvmsg(4, socket.CMSG_SPACE(3 * 4))
    files = array.array("i")
    files.frombytes(extra[0][2])
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        text += client.recv(1 << 16)
    is_python, arguments, folder, environment = json.loads(text)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.executable = str(Path(environment["PATH"].split(":")[0]) / "python")
    code = outcome(is_python=is_python, arguments=arguments)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    client.sendall(str(code).encode())
    os._exit(code)


def outcome(*, is_python: bool, arguments: list[str]) -> int:
    """Run the command or the script; its exit code."""
    try:
        if not is_python:
            from evertune.cli.main import main

            sys.argv = ["evertune", *arguments]
            main()
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path[0] = str(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])

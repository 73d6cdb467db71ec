"""Processes that start at once: a server has imported everything and forks itself for each command.

`python()` and `evertune()` are programs that behave like those of this environment. Each sends its arguments,
environment and standard files to the server of this test process, which forks. The fork runs the command in a session
of its own; the program passes signals on to it and ends as it ends. A fork whose program is killed is killed too. Only
the seconds of importing torch and transformers are saved. `sys.executable` stays for tests of the start itself, and the
real Python runs the scripts of libraries (Ray's workers).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    *("cli.main", "runs.api", "runs.plan.planner", "training.learner", "reporting", "service"),
    *("experiments.grid", "experiments.study", "tools.data", "tools.export", "tools.rescore"),
)
IMPORTED = (*(f"evertune.{name}" for name in IMPORTED), "peft", "skimage.data", "sklearn.datasets", "torch.distributed")
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # both are read when a library is imported
READY = 290  # seconds

CLIENT = """#!{python} -SE
import array, json, os, signal, socket, sys
arguments = sys.argv[1:]
while {is_python} and arguments[:1] == ["-u"]:
    del arguments[0]
first = "".join(arguments[:1])
if {is_python} and first not in ("-m", "-c") and (first[:1] in ("", "-") or "site-packages" in first):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
request = json.dumps([{is_python}, arguments, os.getcwd(), dict(os.environ)]).encode()
files = array.array("i", [0, 1, 2])
server.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
server.sendall(request)
replies = server.makefile()
fork = int(replies.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: os.kill(fork, number))
code = int(replies.readline() or "70")
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def python() -> str:
    """The path of a `python` that starts at once: `-m MODULE`, `-c CODE` and scripts; else it is the real one."""
    return str(programs() / "python")


@functools.cache
def programs() -> Path:
    """The folder with `python` and `evertune`; the server is started by the first call, and ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    place = folder / "socket"
    for name in ("evertune", "python"):
        program = folder / name
        program.write_text(CLIENT.format(python=sys.executable, socket=str(place), is_python=name == "python"))
        program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(place)],
        env=os.environ | OFFLINE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    end = time.monotonic() + READY
    while not place.exists():
        assert server.poll() is None and time.monotonic() < end, "the server did not start"
        time.sleep(0.05)
    return folder


class Server:
    """Forks for whoever asks at `place`, until the process that began it is gone."""

    def __init__(self, place: str) -> None:
        self._running: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        ended, self._ended = socket.socketpair()
        for end in (ended, self._ended):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ended.fileno(), warn_on_full_buffer=False)
        self._listening = socket.socket(socket.AF_UNIX)
        self._selector.register(ended, selectors.EVENT_READ, self._reap)
        self._selector.register(self._listening, selectors.EVENT_READ, self._fork)
        self._listening.bind(f"{place}.new")
        self._listening.listen(64)
        os.rename(f"{place}.new", place)  # noqa: PTH104  it is there when it answers

    def serve(self, tests: int) -> None:
        """Answer while `tests` is the parent."""
        while os.getppid() == tests:
            for key, _ in self._selector.select(timeout=2):
                key.data(key.fileobj)
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, listening: socket.socket) -> None:
        client, _ = listening.accept()
        request, files = received(client)
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for other in (listening, self._ended, client, *self._running.values()):
                other.close()
            answer(request, files)
        for file in files:
            os.close(file)
        self._running[pid] = client
        self._selector.register(client, selectors.EVENT_READ, functools.partial(self._client_is_gone, pid))
        with contextlib.suppress(OSError):
            client.send(f"{pid}\n".encode())

    def _client_is_gone(self, pid: int, client: socket.socket) -> None:
        """What was killed with SIGKILL can't pass it on."""
        os.kill(pid, signal.SIGKILL)
        self._selector.unregister(client)

    def _reap(self, ended: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            ended.recv(1 << 10)
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                client = self._running.pop(found[0])
                with contextlib.suppress(KeyError):
                    self._selector.unregister(client)
                with client, contextlib.suppress(OSError):
                    client.send(f"{os.waitstatus_to_exitcode(found[1])}\n".encode())


def warm_up() -> None:
    """Import what the commands import."""
    from evertune.models import load_lmm

    for name in IMPORTED:
        importlib.import_module(name)
    load_lmm("random")


def received(client: socket.socket) -> tuple[bytes, array.array[int]]:
    """A program's request, and its standard files."""
    head, extra, *_ = client.recvmsg(4, socket.CMSG_SPACE(3 * 4))
    files = array.array("i")
    files.frombytes(extra[0][2])
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        text += client.recv(1 << 16)
    return text, files


def answer(request: bytes, files: array.array[int]) -> NoReturn:
    """Be the program that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    is_python, arguments, folder, environment = json.loads(request)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.executable = str(Path(sys.argv[1]).with_name("python"))
    code = outcome(is_python=is_python, arguments=arguments)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def outcome(*, is_python: bool, arguments: list[str]) -> int:
    """Run the command or the script; its exit code."""
    try:
        sys.argv = arguments if is_python else ["evertune", *arguments]
        if not is_python:
            importlib.import_module("evertune.cli.main").main()
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path[0] = os.getcwd()  # noqa: PTH109  as `python -m` does
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path[0] = ""
            sys.modules["__main__"] = module = types.ModuleType("__main__")
            exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
        else:
            sys.path[0] = str(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    tests = os.getppid()
    os.fsync = lambda file: None  # as in conftest.py
    warm_up()
    Server(sys.argv[1]).serve(tests)

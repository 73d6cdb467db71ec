"""One process at a time: who holds a folder is said, a dead holder's lock is free, learning twice is refused."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from evertune.service import check, learn, new, rollback
from evertune.utils import locks
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.locks import NAME, alone, holder, taken

HOLD = """
import sys, time
from pathlib import Path
from evertune.utils import locks
if "marker" in sys.argv:
    def no_flock(handle):
        raise OSError(38, "Function not implemented")
    locks._flock = no_flock
with locks.alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["flock", "marker"])
def held(request, tmp_path, monkeypatch):
    """A folder that another process holds, by either kind of lock."""
    if request.param == "marker":

        def no_flock(handle):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(locks, "_flock", no_flock)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), request.param], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process, tmp_path
    process.kill()
    process.wait()


@pytest.mark.slow
def test_who_holds_a_folder_is_said(held):
    process, folder = held
    with pytest.raises(RunFolderError) as caught, alone(folder):
        pass
    message = rf"{re.escape(str(folder))} is in use by process {process.pid} on {os.uname().nodename}, since 2\d\d\d-"
    assert re.match(message, str(caught.value))


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(held):
    process, folder = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while True:
        try:
            with alone(folder):
                break
        except RunFolderError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with alone(folder):
        assert holder(folder / NAME).startswith(f"process {os.getpid()} on ")


def test_it_is_free_again_afterwards(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path):
        raise KeyError
    with alone(tmp_path):
        assert taken(tmp_path / NAME) is None


def test_a_folder_that_can_not_be_locked_is_named(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(UserError, match=r"cannot write .*\.lock: Is a directory"), alone(tmp_path):
        pass


def test_a_model_is_taught_checked_and_rolled_back_by_one_at_a_time(tmp_path, tasks):
    folder = tmp_path / "model"
    new(folder, model="random", method="replay", settings=["dtype=float32"])
    actions = [lambda: learn(folder, "any.jsonl"), lambda: check(folder)]
    with alone(folder):
        for action in actions:
            with pytest.raises(RunFolderError, match=r"model is in use by process"):
                action()
    with pytest.raises(RunFolderError, match="is no run folder"):
        rollback(tmp_path / "nothing", 0)
    assert not (tmp_path / "nothing").exists(), "asking for a lock makes no folder"


def test_a_lock_that_can_not_be_signed_holds(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    with alone(tmp_path), pytest.raises(UserError, match="is in use by another process"), alone(tmp_path):
        pass

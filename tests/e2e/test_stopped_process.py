"""One of two processes is stopped or killed: the other ends soon, says why in one line, and the run folder is free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest
import warm

from evertune.utils.locks import NAME, is_held

SILENCE = 3
"""Seconds; by default it is `distributed.SILENCE`."""
WORK = """
import os
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
from evertune import UserError
from evertune.utils import distributed
from evertune.utils.locks import alone

folder, me = Path(sys.argv[1]), distributed.rank()
try:
    distributed.init()
    with alone(folder / "run") if distributed.is_main_process() else nullcontext():
        for turn in range(10**9):
            assert distributed.broadcast(turn) == turn
            assert distributed.all_reduce_sum([1.0], device=torch.device("cpu")) == [2.0]
            if not turn:
                (folder / f"ready-{me}").write_text(str(os.getpid()))
except UserError as problem:
    sys.exit(f"evertune: {problem}")
"""


@pytest.fixture
def two(tmp_path):
    """Two processes that exchange numbers without end; the first holds the lock of a run folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    about |= {"EVERTUNE_PROCESS_TIMEOUT": str(SILENCE), "CUDA_VISIBLE_DEVICES": ""}
    made = [
        subprocess.Popen(
            [warm.python(), "-c", WORK, str(tmp_path)],
            env={**os.environ, **about, "RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        until = time.monotonic() + 150
        while not all((tmp_path / f"ready-{number}").exists() for number in range(2)):
            assert time.monotonic() < until and all(one.poll() is None for one in made), "they did not begin"
            time.sleep(0.1)
        time.sleep(0.2)
        yield made
    finally:
        for one in made:
            one.kill()
            one.communicate()


def output_of(process):
    """What a process says at its end, warnings of torch left out, and its exit status."""
    _, errors = process.communicate(timeout=SILENCE + 25)
    return [line for line in errors.splitlines() if line.startswith(("evertune", "Traceback"))], process.returncode


@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
@pytest.mark.parametrize("which", [0, 1])
def test_the_other_process_ends(two, tmp_path, which, how):
    assert is_held(tmp_path / "run" / NAME)
    gone, other = two[which], two[1 - which]
    pid = int((tmp_path / f"ready-{which}").read_text())
    os.kill(pid, getattr(signal, how))
    lines, status = output_of(other)
    assert len(lines) == 1 and status > 0, lines
    assert "process" in lines[0] and "the same command again resumes" in lines[0]
    if how == "SIGSTOP":
        assert f"process {which} " in lines[0] and f"{SILENCE} s" in lines[0]
        os.kill(pid, signal.SIGCONT)
        lines, status = output_of(gone)
        assert len(lines) == 1 and status > 0, "one that goes on ends too"
    else:
        gone.wait()
    assert not is_held(tmp_path / "run" / NAME)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_launcher_is_gone_before_they_meet_ends(number, tmp_path):
    """Its launcher kept the addresses: `torchrun` that was killed left processes that tried to connect for two days."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(number)}
    about |= {"LOCAL_RANK": str(number), "TORCHELASTIC_USE_AGENT_STORE": "True", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [warm.python(), "-c", WORK.replace("try:", f"distributed.MEETING = {SILENCE}\ntry:", 1), str(tmp_path)],
        env={**os.environ, **about, "EVERTUNE_PROCESS_TIMEOUT": str(SILENCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert f"127.0.0.1:{port} within {SILENCE} s" in done.stderr.splitlines()[-1]

"""Workers: order, locks, failures and stopping, with commands that take a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evertune.experiments.grid.workers import Job, Pool, StopSignals, Workload, locked


def job(folder, name, code):
    return Job(name, (sys.executable, "-c", code), beside=folder / name)


def nothing(_):
    pass


def pool(jobs, *, size=2, done=(), before_start=nothing, when_done=nothing):
    orders = Workload(
        jobs=jobs,
        size=size,
        environment={"GREETING": "hello"},
        is_done=lambda job: job.name in done,
        before_start=before_start,
        when_done=when_done,
    )
    return Pool(orders)


def work(made):
    ended = []
    deadline = time.monotonic() + 30
    while made.open and time.monotonic() < deadline:
        ended += made.step()
        time.sleep(0.01)
    assert not made.open
    return ended


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited for 20 seconds")


@pytest.mark.slow
def test_jobs_are_started_in_order_and_never_more_than_size(tmp_path):
    code = "import time; time.sleep(0.3)"
    made = pool([job(tmp_path, name, code) for name in "abcd"], size=2)
    made.step()
    assert [worker.job.name for worker in made.running] == ["a", "b"]
    most, ended = 0, []
    while made.open:
        ended += made.step()
        most = max(most, len(made.running))
        time.sleep(0.01)
    assert most == 2 and sorted(e.job.name for e in ended) == ["a", "b", "c", "d"]
    assert all(e.problem is None and e.seconds > 0.2 for e in ended)


def test_the_log_holds_the_command_and_what_it_said(tmp_path):
    work(pool([job(tmp_path, "a", "import os; print(os.environ['GREETING'])")]))
    assert (tmp_path / "a.log").read_text().splitlines()[1:] == ["hello"]
    assert (tmp_path / "a.log").read_text().startswith(f"$ {sys.executable} -c ")


def test_a_failure_is_told_with_the_last_lines_of_this_attempt_and_the_others_go_on(tmp_path):
    (tmp_path / "bad.log").write_text("what an earlier attempt said\n")
    talk = "import sys; [print('line', i) for i in range(9)]; sys.exit('no more wool')"
    done = []
    jobs = [job(tmp_path, "bad", talk), job(tmp_path, "mute", "import os; os._exit(3)"), job(tmp_path, "good", "")]
    ended = {e.job.name: e.problem for e in work(pool(jobs, when_done=done.append))}
    assert ended["good"] is None and [e.job.name for e in done] == ["good"]
    assert ended["mute"] == "ended with exit code 3 and printed nothing"
    lines = ended["bad"].splitlines()
    assert len(lines) == 5 and lines[-1] == "no more wool" and "earlier" not in ended["bad"]


def test_a_killed_job_says_by_what(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (ended,) = work(pool([job(tmp_path, "a", code)]))
    assert ended.problem == "ended by SIGKILL; often the memory was full: try fewer jobs"


def test_a_job_that_somebody_else_holds_is_left_and_taken_later(tmp_path):
    held, free = job(tmp_path, "held", "print('held')"), job(tmp_path, "free", "")
    lock = locked(held)
    assert locked(held) is None
    made = pool([held, free])
    wait_for(lambda: any(e.job is free for e in made.step()))
    made.step()
    assert made.elsewhere == [held] and made.open and not made.running
    lock.close()
    assert [e.job.name for e in work(made)] == ["held"]


def test_a_job_done_by_somebody_else_meanwhile_is_not_started(tmp_path):
    done = set()
    made = pool([job(tmp_path, "a", "print('started')")], done=done)
    lock = locked(made.waiting[0])
    made.step()
    done.add("a")
    lock.close()
    (ended,) = work(made)
    assert ended.problem is None and not (tmp_path / "a.log").exists()


def test_the_lock_is_held_from_before_the_start_until_the_result_is_noted(tmp_path):
    """Whatever a job reads and leaves is written while nobody else may start it."""
    seen = []
    made = pool(
        [job(tmp_path, "a", "")],
        before_start=lambda job: seen.append(locked(job)),
        when_done=lambda ended: seen.append(locked(ended.job)),
    )
    work(made)
    assert seen == [None, None]
    again = locked(job(tmp_path, "a", ""))
    assert again is not None
    again.close()


def test_stop_ends_the_workers_and_their_locks(tmp_path):
    made = pool([job(tmp_path, name, "import time; time.sleep(60)") for name in "abc"])
    made.step()
    pids = [worker.process.pid for worker in made.running]
    assert [int((tmp_path / f"{name}.lock").read_text().split()[0]) for name in "ab"] == pids
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 5 and not any(map(is_alive, pids))
    lock = locked(job(tmp_path, "a", ""))
    assert lock is not None
    lock.close()


@pytest.mark.slow
def test_a_worker_keeps_its_lock_when_its_starter_is_killed(tmp_path):
    """Else the same run would be started a second time beside an orphan."""
    starter = f"""
import sys, time
from pathlib import Path
from evertune.experiments.grid.workers import Job, Workload, Pool
job = Job("a", (sys.executable, "-c", "import time; time.sleep(60)"), beside=Path({str(tmp_path)!r}) / "a")
orders = Workload(
    jobs=[job], size=1, environment={{}}, is_done=lambda j: False, before_start=print, when_done=print
)
pool = Pool(orders)
pool.step()
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", starter])
    lock = tmp_path / "a.lock"
    wait_for(lambda: lock.exists() and lock.read_text().endswith("\n"))
    orphan = int(lock.read_text().split()[0])
    process.kill()
    process.wait()
    mine = job(tmp_path, "a", "")
    assert is_alive(orphan) and locked(mine) is None
    os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: locked(mine)).close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_only_ask_and_are_given_back(number):
    """With a handler of its own: who runs the tests in the background may have SIGINT ignored."""

    def mine(*_):
        raise AssertionError("the signal went past")

    before = signal.signal(number, mine)
    try:
        with StopSignals() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_folder_is_made(tmp_path):
    lock = locked(Job("a", (), beside=Path(tmp_path) / "deep" / "down" / "s0"))
    assert lock is not None and (tmp_path / "deep" / "down" / "s0.lock").exists()
    lock.close()

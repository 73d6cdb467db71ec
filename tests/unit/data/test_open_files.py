"""The number of open files does not grow with the number of tasks: a stream of any length runs at `ulimit -n 128`."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest
import warm
import yaml
from PIL import Image

from evertune.cli import main as cli
from evertune.data import load_stream, open_files
from evertune.utils.errors import shortage
from evertune.utils.files import cache_folder

LIMIT = 128
LOOK = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
import evertune
"""
LOAD = (
    LOOK
    + """
from evertune.cli import main as cli
from evertune.utils.errors import shortage
from evertune.utils.files import cache_folder
from evertune.data import load_stream, open_files
before = len(os.listdir("/proc/self/fd"))
stream = load_stream(sys.argv[1], decode=True)
digest = stream.fingerprint
answers = [sample.answers[0] for _ in range(2) for task in stream.tasks for sample in (*task.train, *task.test)]
print(json.dumps([len(os.listdir("/proc/self/fd")) - before, digest, answers]))
"""
)
RUN = (
    LOOK
    + """
evertune.run(sys.argv[1], model="random", methods="joint", out=sys.argv[3], settings=["train.epochs=1"])
print(json.dumps(len(json.load(open(sys.argv[3] + "/matrix.json"))["R"])))
"""
)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """Streams of `count` tasks of two rows; every image is another one."""
    folder = tmp_path_factory.mktemp("many")

    def made(count):
        entries = []
        for number in range(count):
            for side in range(2):
                Image.new("RGB", (8, 8), (number, side, 100)).save(folder / f"{number}-{side}.png")
                row = {"image": f"{number}-{side}.png", "instruction": "Which?", "answer": f"{number} {side}"}
                (folder / f"{number}-{side}.jsonl").write_text(json.dumps(row) + "\n")
            entries.append({"name": f"task-{number}", "train": f"{number}-0.jsonl", "test": f"{number}-1.jsonl"})
        path = folder / f"{count}.yaml"
        path.write_text(yaml.safe_dump({"name": f"many-{count}", "tasks": entries}))
        return path

    return made


def child(script, *arguments):
    done = subprocess.run(
        [warm.python(), "-c", script, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_many_tasks_are_read_with_few_open_files(streams):
    path = streams(60)
    held, digest, answers = child(LOAD, path, LIMIT)
    assert held <= open_files.MOST + 8
    assert answers == [f"{number} {side}" for number in range(60) for side in range(2)] * 2
    assert load_stream(str(path)).fingerprint == digest


@pytest.mark.slow
def test_many_tasks_are_trained_with_few_open_files(streams, tmp_path):
    assert child(RUN, streams(20), LIMIT, tmp_path / "run") == 2


@contextmanager
def files_left(count):
    """So many files can still be opened."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 64, most))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for handle in held[len(held) - count :]:
            os.close(handle)
        del held[len(held) - count :]
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_too_few_open_files_are_no_damage(streams, left, caplog):
    """What can't be opened now stays in the cache, and the message says what is missing."""
    path = streams(3)
    before = load_stream(str(path)).fingerprint
    rows = sorted((cache_folder() / "rows").iterdir())
    open_files.mapped.cache_clear()
    open_files.reader.cache_clear()
    with files_left(left), pytest.raises(OSError, match="Too many open files") as caught:
        load_stream(str(path)).fingerprint  # noqa: B018
    assert "ulimit -n" in (shortage(caught.value) or "")
    assert sorted((cache_folder() / "rows").iterdir()) == rows and "damaged" not in caplog.text
    assert load_stream(str(path)).fingerprint == before


def test_on_the_command_line_it_is_one_line(monkeypatch, capsys):
    for code, message in ((errno.EMFILE, "ulimit -n 4096, then run"), (errno.ENOSPC, "No space left on device; free")):
        monkeypatch.setattr(cli, "app", lambda code=code, **_: os_error(code))
        with pytest.raises(SystemExit) as end:
            cli.main()
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(lines) == 1 and "x.json" in lines[0] and message in lines[0]
    monkeypatch.setattr(cli, "app", lambda **_: os_error(errno.EBADF))
    with pytest.raises(OSError, match="Bad file"):
        cli.main()


def os_error(code):
    raise OSError(code, os.strerror(code), "x.json")

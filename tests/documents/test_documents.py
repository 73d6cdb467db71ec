"""Every command and every block of Python in README.md and docs/ does what a reader would expect: it runs.

Each page is followed from top to bottom in an empty folder with what a clone has beside it. What can't run here says
why in a comment (`blocks.py`) and is checked against the real command line instead (`checked.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from blocks import PAGES, ROOT, blocks_of, commands_in_prose
from checked import mistakes_of, mistakes_of_shell
from warm import programs

RUN = ("sh", "console", "python")
LONGEST = 200
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FOLLOWED = [page for page in PAGES if any(b.language in RUN and "not run" not in b.notes for b in blocks_of(page))]
FIRST = ("README.md", "docs/index.md", "docs/data.md", "docs/python.md")
"""The pages that a new user follows; `make test-all` follows the others too."""
NOWHERE = "http://127.0.0.1:9"  # a block that wants the network must say so
NO_NETWORK = {
    "HF_HUB_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
    "http_proxy": NOWHERE,
    "https_proxy": NOWHERE,
    "no_proxy": "127.0.0.1,localhost",
}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_exists(page):
    """Those in blocks, run or not, and those in sentences."""
    found = [f"{block.where}: {mistake}" for block in blocks_of(page) for mistake in mistakes_of(block)]
    for line, command in commands_in_prose(page):
        found += [f"{page.name}:{line}: {mistake}" for mistake in mistakes_of_shell(command, named_only=True)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", ["docs/python.md"])
def test_the_programs_are_typed(page, tmp_path):
    """What a reader copies passes `mypy --strict`, so the public API has the types that it says it has."""
    programs = [block for block in blocks_of(ROOT / page) if block.language == "python"]
    for block in programs:
        (tmp_path / f"line_{block.line}.py").write_text(block.text)
    command = [sys.executable, "-m", "mypy", "--strict", f"--config-file={ROOT / 'pyproject.toml'}"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *map(str, sorted(tmp_path.glob("*.py")))]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def until(true, process, *, seconds):
    """Wait for something that a process is to bring about."""
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "it ended before it was ready"
        assert time.monotonic() < end, f"not ready after {seconds} s"
        time.sleep(0.05)


class Reader:
    """Somebody with a clone of the repository and a terminal, who types what a page says."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.port = folder, free_port()
        for name in ("docs", "examples", "benchmarks", "tests/fixtures"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "tests" / "tiny_chat.py", folder)  # a checkpoint in miniature, in place of one of the hub
        paths = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, **NO_NETWORK, "HOME": str(folder / "home"), "PATH": paths, "COLUMNS": "110"}
        self.environment |= {"OMP_NUM_THREADS": "1"}
        for name in ("EVERTUNE_CACHE", "XDG_CACHE_HOME", "PYTEST_CURRENT_TEST"):
            self.environment.pop(name, None)
        (folder / "home").mkdir()

    def follow(self, block):
        """Do what a block says."""
        text = block.as_run().replace("PORT", str(self.port)) if "run beside" in block.notes else block.as_run()
        if "file" in block.notes:
            (self.folder / block.notes["file"]).write_text(text)
        elif block.language in RUN and "not run" not in block.notes:
            with ExitStack() as running:
                if command := block.notes.get("run before"):
                    self.type(command, block)
                if command := block.notes.get("run beside"):
                    running.enter_context(self.beside(command.replace("PORT", str(self.port))))
                getattr(self, block.language)(text, block)

    def sh(self, text, block):
        """The lines of a block, which stop at the first that fails."""
        self.type(text, block)

    def python(self, text, block):
        """A block as a script."""
        (self.folder / "block.py").write_text(text)
        self.type("python block.py", block)

    def console(self, text, block):
        """Commands behind a prompt, each with what it prints, exact match."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            output = self.type(command, block, may_fail=expected.startswith("evertune: "))
            assert tidy(output) == tidy(expected), f"{block.where}: $ {command}\nprints\n{output}"

    def type(self, text, block, *, may_fail=False):
        """Run shell lines; what they print."""
        shell = ["bash", "-euo", "pipefail", "-c", text]
        ran = subprocess.run(
            shell, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
        output = ran.stdout + ran.stderr
        if expected := block.notes.get("fails with"):
            assert ran.returncode and expected in output, f"{block.where}: it does not fail so\n{output[-1500:]}"
            return output
        assert may_fail or ran.returncode == 0, (
            f"{block.where}: exit code {ran.returncode} of\n{text}\n{output[-1500:]}"
        )
        return output

    @contextmanager
    def beside(self, command):
        """A server in the background while a block runs."""
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, start_new_session=True
        )
        try:
            until(lambda: answers(self.port), server, seconds=LONGEST)
            yield
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def tidy(text):
    """Lines without the spaces and the empty lines at their ends."""
    return [line.rstrip() for line in text.strip().splitlines()]


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def answers(port):
    """Whether somebody listens there."""
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path, programs())


@pytest.mark.parametrize(
    "name",
    [
        name if name in FIRST else pytest.param(name, marks=pytest.mark.thorough)
        for name in (page.relative_to(ROOT).as_posix() for page in FOLLOWED)
    ],
)
def test_a_page_can_be_followed(name, reader):
    for block in blocks_of(ROOT / name):
        reader.follow(block)


@pytest.mark.parametrize(
    ("added", "mistake"),
    [
        ("```sh\nevertune run parcel --modle smol\n```", "--modle"),
        ("```sh\nevertune run parcels\n```", "parcels"),
        ("```sh\nevertune run parcel --method ecw\n```", "ecw"),
        ("```sh\nevertune run parcel --method replay --set replay.rate=1\n```", "rate"),
        ("```sh\nevertune run parcel --model smoll\n```", "smoll"),
        ("<!-- not run: needs smol -->\n```sh\nevertune learn --force\n```", "--force"),
        ("```sh\nevertune grid benchmarks/tables.yaml\n```", "benchmarks/tables.yaml"),
        ("```sh\nls && evertune wrong x\n```", "wrong"),
        ("```sh\nmake everything\n```", "everything"),
        ("```sh\naccelerate launch --multi_gpu -m evertune run parcel --limitt 3\n```", "--limitt"),
        ("```sh\npython - <<'EOF'\nimport = 3\nEOF\n```", "invalid syntax"),
        ("```python\nimport evertune as\n```", "invalid syntax"),
        ("```\nevertune run parcel\n```", "`sh` or `console`"),
    ],
)
def test_a_wrong_command_is_found_without_running_it(added, mistake, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{added}\n")
    assert any(mistake in found for block in blocks_of(page, root=tmp_path) for found in mistakes_of(block))


@pytest.mark.parametrize(
    "added",
    [
        "```sh\ntest -e what-nobody-made\n```",
        "```python\nassert False\n```",
        "```console\n$ evertune ls streams --json\n[]\n```",
        "```sh\nevertune fetch parcel\n```",
        "<!-- run with: smol -> random -->\n```sh\ntrue\n```",
        "<!-- fails with: KeyError -->\n```python\nprint('KeyError')\n```",
        "<!-- skip: no time -->\n```sh\ntrue\n```",
        "```bash\ntrue\n```",
    ],
)
def test_a_block_that_was_added_without_a_thought_fails(added, reader, tmp_path):
    """Whoever adds a block has it run, or says why not in a way this test knows."""
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{added}\n")
    with pytest.raises(AssertionError):
        for block in blocks_of(page, root=tmp_path):
            reader.follow(block)

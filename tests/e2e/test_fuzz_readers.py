"""The fuzz campaign in small: every reader gets damaged and hostile inputs under the same guards as `scripts/fuzz.py`.

The guards are tested too: a reader that writes elsewhere, connects, starts a process, unpickles or loops is caught.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from fuzzing.inputs import CHANGED, Seed, made  # noqa: E402
from fuzzing.readers import Reader, World, group, groups, reading  # noqa: E402

INPUTS = 1_000


def test_every_reader(tmp_path):
    """The campaign itself, with few inputs; findings are its exit code."""
    command = [warm.python(), str(SCRIPTS / "fuzz.py"), "--out", str(tmp_path), "--inputs", str(INPUTS), "--seed", "t"]
    done = subprocess.run([*command, "--together"], capture_output=True, text=True, check=False)
    findings = [path.read_text() for path in (tmp_path / "findings").glob("*.txt")]
    assert done.returncode == 0, "\n".join([done.stdout[-2000:], *findings[:3]])
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert len(counts) > 40 and sum(count["read"] for count in counts.values()) >= INPUTS
    assert sum(count["accepted"] for count in counts.values()) > 0.1 * INPUTS, "inputs reach behind the decoders"
    assert sum(count["refused"] for count in counts.values()) > 0.1 * INPUTS


GUARDED = """
import sys, os, json
sys.path.insert(0, {scripts!r})
from pathlib import Path
import fuzz
from fuzzing.inputs import Seed
from fuzzing.readers import Reader
def run(content, place):
    {does}
bench = fuzz.ModelSession(Path({out!r}))
with bench:
    print(bench.read(Reader("r", [Seed(b"x")], run, 1, seconds=0.2), 0, seed="0"))
print((Path({out!r}) / "findings" / "r-0.txt").read_text()[-300:])
"""


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("(place.parent.parent / 'out').write_text('x')", "Forbidden: open"),
        ("os.rename(place, place.parent.parent / 'moved')", "Forbidden: os.rename"),
        ("os.system('true')", "Forbidden: os.system"),
        ("__import__('subprocess').run(['true'])", "Forbidden: subprocess.Popen"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "Forbidden: socket"),
        (f"__import__('pickle').loads({pickle.dumps(Path)!r})", "Forbidden: pickle.find_class"),
        ("eval('1+1')", "Forbidden: compile"),
        ("[0 for _ in iter(int, 1)]", "TooSlow"),
        ("1 / 0", "ZeroDivisionError"),
        ("(place / 'inside').write_text('x'); raise KeyError('k')", "KeyError: 'k'"),
    ],
)
def test_the_guards_see(tmp_path, does, says):
    script = GUARDED.format(scripts=str(SCRIPTS), does=does, out=str(tmp_path))
    done = subprocess.run([warm.python(), "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("findings") and says in done.stdout, done.stdout + done.stderr


def test_inputs_follow_from_their_number():
    seeds = [Seed(b'{"a": [1, 2], "b": {"c": "d"}}', "json"), Seed(b"plain"), Seed(b"a: 1\n", "yaml", b"head\n")]
    first = [made(seeds, campaign="s/r", number=number) for number in range(300)]
    assert first == [made(seeds, campaign="s/r", number=number) for number in range(300)]
    assert len(set(first)) > 250 and first != [made(seeds, campaign="t/r", number=number) for number in range(300)]
    assert any(content.startswith(b"head\n") for content in first)


KNOWN = sorted((Path(__file__).parents[1] / "fixtures" / "fuzz").glob("*"))


@pytest.fixture(scope="module")
def data_readers():
    world = World(run=Path("none"), data=Path(__file__).parents[1] / "fixtures" / "data")
    return {reader.name: reader for number in range(groups() - 3) for reader in group(world, number)}


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.name)
def test_what_the_campaign_found_once(path, data_readers, tmp_path, monkeypatch):
    """Each of these ended in something other than a sentence."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    name, _, content = path.read_bytes().partition(b"\n")
    (tmp_path / "here").mkdir()
    assert reading(content, tmp_path / "here", data_readers[name.decode()]) in ("accepted", "refused")


def test_there_are_such_inputs():
    assert len(KNOWN) >= 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
READ = ("JSON Lines", "streaming JSON", "run YAML", "stream YAML", "grid YAML", "predictions", "gold files", "requests")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON | st.binary(max_size=60))
def test_values_of_any_kind(value, data_readers, tmp_path):
    """What hypothesis comes up with, to every reader of JSON and YAML; it also shrinks what it finds."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    for name in READ:
        assert reading(content, tmp_path, data_readers[name]) in ("accepted", "refused")


def test_kinds_of_change():
    assert set(CHANGED) == {"json", "yaml", "lines"} and Reader("r", [], print, 1).seconds == 10

"""A disk that fills up, or a kill, while something is made: nothing half made is used, and what was left is removed."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import warm
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

import evertune
from evertune import UserError
from evertune.assets import PACKAGES, unpacked
from evertune.data.builders import built, pocket
from evertune.utils.files import whole_folder
from evertune.utils.temporary_files import DAY, leftovers, sweep, temporary_name

OPTIONS = {"role": "scene", "train": 3, "test": 2, "seed": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def files_up_to(size):
    """No file can grow larger: a write that would fails, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.fixture
def scenes(monkeypatch):
    """Drawn scenes without the package of drawings; the third is a large file."""
    made = iter(range(10**6))

    def draw(scene, choose, *, progress):
        return Image.effect_noise((96, 96), 90) if next(made) == 2 else Image.new("L", (96, 96))

    monkeypatch.setattr(pocket, "draw", draw)


def role():
    return next(iter(pocket.ROLES))


def test_a_disk_that_fills_up_while_scenes_are_drawn(scenes, cache):
    options = {**OPTIONS, "role": role()}
    with (
        files_up_to(4096),
        pytest.raises(UserError, match=r"cannot write .*tasks/pocket-\w+: File too large; free space"),
    ):
        built("pocket", options)
    assert not list((cache / "tasks").iterdir()), "nothing half drawn stays"
    folder = built("pocket", options)
    assert len(list((folder / "images").iterdir())) == 5 and (folder / "done").exists()
    assert built("pocket", options) == folder


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Image.effect_noise((99, 99), 90).save(path / "x.png"),
        lambda path: save_file({"a": torch.zeros(10_000)}, path / "x.safetensors"),
        lambda path: Tokenizer(models.WordLevel({str(n): n for n in range(999)}, "1")).save(str(path / "x.json")),
    ],
    ids=["pillow", "safetensors", "tokenizers"],
)
def test_a_full_disk_is_one_line_whichever_library_writes(write, tmp_path):
    message = r"cannot write .*out: File too large; free space"
    with files_up_to(4096), pytest.raises(UserError, match=message), whole_folder(tmp_path / "out") as place:
        write(place)
    assert not list(tmp_path.glob(".out*")) and not (tmp_path / "out").exists()


def test_errors_of_other_kinds_keep_their_words(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out"):
        print(1 / 0)


KILLED = """
import os, signal, sys
from PIL import Image
from evertune.data.builders import built, pocket
made = []
def draw(scene, choose, *, progress):
    made.append(1)
    if len(made) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return Image.new("L", (96, 96))
pocket.draw = draw
built("pocket", {"role": sys.argv[1], "train": 3, "test": 2, "seed": 0})
"""


@pytest.mark.slow
def test_a_drawing_that_is_killed_leaves_no_task(scenes, cache):
    done = subprocess.run([warm.python(), "-c", KILLED, role()], check=False, env={**os.environ}, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (left,) = (cache / "tasks").iterdir()
    assert left in leftovers(cache)
    folder = built("pocket", {**OPTIONS, "role": role()})
    assert len(list((folder / "images").iterdir())) == 5
    assert left.exists(), "its process might be alive"
    aged(left)
    (cache / ".swept").unlink()
    built("pocket", {**OPTIONS, "role": role(), "seed": 1})
    assert not left.exists()


def aged(path, *, seconds=2 * DAY):
    when = time.time() - seconds
    for place in (path, *path.rglob("*")):
        os.utime(place, (when, when))


def left_at(path, *, content="half"):
    """What a process that was killed has left beside `path`."""
    left = temporary_name(path)
    left.mkdir(parents=True)
    (left / "part").write_text(content)
    return left


def test_what_is_old_goes_and_what_is_in_use_stays(cache):
    places = ["tasks/a", "downloads/b", "features/c/d.safetensors", "packages/e", "models/f", "images/00/g"]
    old = [left_at(cache / place) for place in places]
    for path in old:
        aged(path)
    aged(slow := left_at(cache / "models/slow"))
    (slow / "part").write_text("written just now")
    young = left_at(cache / "models/young")
    (cache / "tasks" / "whole").mkdir()
    with whole_folder(cache / "tasks" / "new"):
        pass
    assert not any(path.exists() for path in old)
    assert young.exists() and slow.exists() and (cache / "tasks" / "whole").exists()
    assert sweep(cache / "nowhere") == []


def test_the_cache_is_looked_through_once_a_day(cache):
    with whole_folder(cache / "tasks" / "one"):
        pass
    aged(left := left_at(cache / "models/old"))
    with whole_folder(cache / "tasks" / "two"):
        pass
    assert left.exists()
    aged(cache / ".swept")
    with whole_folder(cache / "tasks" / "three"):
        pass
    assert not left.exists()


def test_leftovers_of_killed_exports_go_with_the_next_one_of_that_name(tmp_path):
    aged(own := left_at(tmp_path / "exported"))
    aged(other := left_at(tmp_path / "another"))
    with whole_folder(tmp_path / "exported") as place:
        (place / "config.json").write_text("{}")
    assert not own.exists()
    assert other.exists(), "a folder of the user's is not looked through"


def test_a_package_is_there_whole_or_not_at_all(cache, monkeypatch):
    """Also where an earlier version was killed in the middle."""
    name = next(iter(PACKAGES))
    package = PACKAGES[name]

    def download(package, place, progress):
        (place / "archive").write_bytes(b"")
        return place / "archive"

    def full(package, archive, folder):
        (folder / "half").write_text("half")
        raise UserError("cannot write: No space left on device")

    monkeypatch.setattr("evertune.assets.download", download)
    monkeypatch.setattr("evertune.assets._verify", lambda *_: None)
    monkeypatch.setattr("evertune.assets.unpack", full)
    package.folder.mkdir(parents=True)
    (package.folder / "old-half").write_text("half")
    with pytest.raises(UserError, match="No space left"):
        unpacked(name)
    assert not package.folder.exists() or not (package.folder / "half").exists()
    assert not [path for path in cache.rglob("*") if path.name == "half"]
    monkeypatch.setattr("evertune.assets.unpack", lambda package, archive, folder: (folder / "whole").write_text(""))
    assert sorted(path.name for path in unpacked(name).iterdir()) == ["done", "whole"]


@pytest.mark.slow
def test_every_temporary_place_has_a_name_that_is_swept():
    """`tempfile` names are not: what is made in the cache or beside a target goes through `leftovers`."""
    allowed = {  # in the system's temporary folder
        *("apps/playground/command.py", "runs/learner.py", "training/method_contract.py"),
    }
    source = Path(evertune.__file__).parent
    found = {str(p.relative_to(source)) for p in source.rglob("*.py") if re.search(r"\btempfile\b", p.read_text())}
    assert found <= allowed

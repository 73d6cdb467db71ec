"""The wheel has what it should, and an environment with nothing else of this repository runs the quickstart with it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from check_dist import ROOT, sdist_mistakes, version_mistakes, wheel_mistakes

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(900)]
QUICKSTART = "run pocket-mini --model tiny-aligned --method sequential --limit 4 --set dtype=float32 --out first"


def done(*command, **options):
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A wheel and a source archive, built as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """An environment with the wheel. It sees the other packages of this one, whose installation takes minutes."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    done(python, "-m", "pip", "install", "--no-index", "--no-deps", *dist.glob("*.whl"))
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    place = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(place, "others.pth").write_text("\n".join(others) + "\n")
    return folder


def test_contents_and_versions(dist):
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel_mistakes(wheel) + sdist_mistakes(source) + version_mistakes(dist, tag=None) == []
    assert version_mistakes(dist, tag="v99.0.0")


def test_a_wheel_without_a_template_or_with_a_stray_file_is_noticed(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(tmp_path / "bad.whl", "w") as bad:
        for name in whole.namelist():
            if name.endswith((".py", ".j2")) and not name.endswith("reporting/page.html.j2"):
                bad.writestr(name, "")
        bad.writestr("evertune/notes.txt", "")
    found = "\n".join(wheel_mistakes(tmp_path / "bad.whl"))
    assert "lacks evertune/reporting/page.html.j2" in found and "has evertune/notes.txt" in found


def test_the_quickstart_runs_without_a_clone(installed, tmp_path):
    keep = ("PATH", "EVERTUNE_CACHE", "OMP_NUM_THREADS", "SSL_CERT_FILE", "PIP_CERT", "PIP_INDEX_URL", "HTTPS_PROXY")
    environment = {name: os.environ[name] for name in keep if name in os.environ} | {"HOME": str(tmp_path)}
    here = {"cwd": tmp_path, "env": environment}
    place = done(installed / "bin" / "python", "-c", "import evertune; print(evertune.__file__)", **here)
    assert Path(place.strip()).is_relative_to(installed)
    printed = done(installed / "bin" / "evertune", *QUICKSTART.split(), **here)
    assert "forgetting" in printed
    assert (tmp_path / "first" / "report" / "index.html").stat().st_size > 10_000
    assert "sequential" in done(installed / "bin" / "evertune", "compare", "first", **here)

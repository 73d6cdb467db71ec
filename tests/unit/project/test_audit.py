"""`make audit` ends well only when every package was looked up: pip-audit alone takes "not known" for "no advisory"."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[3] / "scripts" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

SOUND = {"name": "pillow", "version": "12.0", "vulns": []}
WEAK = {"name": "jinja2", "version": "2.0", "vulns": [{"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"]}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
OURS = {"name": "evertune", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("pypi", "osv", "code", "says"),
    [
        ([SOUND, OURS], None, 0, "pypi: 1 packages looked up, 0 advisories; 0 not looked up"),
        ([SOUND, WEAK], None, 1, "jinja2 2.0: PYSEC-2021-66, mended in 2.11.3"),
        ([SOUND, SKIPPED], None, 3, "not looked up: torch"),
        ([SKIPPED, OURS], [SOUND], 0, "pypi: could not be asked (it knows none of 2 packages)"),
        ([], None, 3, "nothing is known about any package"),
        ("refused", "refused", 3, "pypi: could not be asked (refused)"),
    ],
)
def test_what_could_not_be_looked_up_is_no_good_news(monkeypatch, capsys, pypi, osv, code, says):
    def run(command, **_):
        found = {"pypi": pypi, "osv": osv or []}[command[-1]]
        if isinstance(found, str):
            return subprocess.CompletedProcess(command, 1, "", f"ERROR\n{found}")
        return subprocess.CompletedProcess(command, 0, json.dumps({"dependencies": found, "fixes": []}), "")

    monkeypatch.setattr(audit.subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert ended.value.code == code and says in capsys.readouterr().out

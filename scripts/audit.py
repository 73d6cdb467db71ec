"""Known weaknesses of everything that is installed beside evertune, by pip-audit; what could not be looked up is said.

`make audit`. pip-audit alone ends with "No known vulnerabilities found" where the service knows none of the packages,
as behind an index that only mirrors files. Here that is an error: exit code 0 only when each package was looked up and
none has an advisory, 1 when one has, 3 when the service could not be asked about all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

WEAK, UNKNOWN = 1, 3
SERVICES = ("pypi", "osv")
OURS = ("evertune",)  # on no index yet


def main() -> None:
    """Ask one service after the other until one knows the packages."""
    for service in SERVICES:
        found, complaint = _asked(service)
        looked_up = [one for one in found if "skip_reason" not in one]
        left = [one["name"] for one in found if "skip_reason" in one and one["name"] not in OURS]
        if looked_up:
            raise SystemExit(_report(service, looked_up, left))
        print(f"{service}: could not be asked ({complaint or f'it knows none of {len(found)} packages'})")
    print("No advisory service can be reached from here: nothing is known about any package. Run this with a network.")
    raise SystemExit(UNKNOWN)


def _asked(service: str) -> tuple[list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([*command, "--vulnerability-service", service], capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]


def _report(service: str, looked_up: list[dict[str, Any]], left: list[str]) -> int:
    weak = [(one, weakness) for one in looked_up for weakness in one["vulns"]]
    for one, weakness in weak:
        fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {weakness['id']}, mended in {fixed}")
    print(f"{service}: {len(looked_up)} packages looked up, {len(weak)} advisories; {len(left)} not looked up")
    if left:
        print("not looked up:", ", ".join(left))
    return WEAK if weak else UNKNOWN if left else 0


if __name__ == "__main__":
    main()

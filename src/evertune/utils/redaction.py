"""What must not be written or sent: keys and passwords, in what trackers are given, in messages and in errors.

A file of a run never gets the environment; this is for texts that others make: what a client said, an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

LEFT_OUT = "(left out)"
SECRET = re.compile(r"(^|[_.-])(api_?key|key|token|password|passwd|secret|credentials?)$", re.IGNORECASE)
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
IN_QUERY = re.compile(r"(?<=[?&])((?:\w*_)?(?:key|token|password|secret)=)[^&\s]+", re.IGNORECASE)
SHORTEST = 6  # a shorter value would be found in words by chance


def without_secrets(value: Any) -> Any:
    """A JSON-able value with secrets left out: by the names of keys, in addresses, and what the environment holds."""
    if isinstance(value, Mapping):
        return {k: LEFT_OUT if SECRET.search(str(k)) and v else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    text = IN_QUERY.sub(rf"\1{LEFT_OUT}", IN_ADDRESS.sub(LEFT_OUT, text))
    for name, secret in os.environ.items():
        if SECRET.search(name) and len(secret) >= SHORTEST:
            text = text.replace(secret, LEFT_OUT)
    return text

"""What must not be written or sent: keys and passwords, in what trackers are given, in messages and in errors.

A file of a run never gets the environment; this is for texts that others make: a client's message, an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

LEFT_OUT = "(left out)"
SECRET = re.compile(
    r"(^|[_.-])(api_?key|key|token|auth|authorization|credentials?|sig|signature)$|(password|passwd|passphrase|secret)$",
    re.IGNORECASE,
)
WORD_IN_NAME = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A password may hold @ and /: all up to the last @ is left out, unless what stands before the colon is a host and what
# follows is its port, as in http://127.0.0.1:9/@scope/package.
HOST_AND_PORT = r"(?:[\w-]+(?:\.[\w-]+)+|localhost):\d+[/?#]"
IN_ADDRESS = re.compile(rf"(?<=://)(?:(?!{HOST_AND_PORT})[^\s/:@]*:[^\s\"<>]{{0,300}}(?=@)|[^/\s]{{1,300}}(?=@))")
IN_QUERY = re.compile(r"(?<=[?&#;])([\w.-]{1,100})=[^&;\s#\"<>]+")
IN_JSON = re.compile(r"(([\"'])([\w.-]{1,100})\2\s{0,9}:\s{0,9})(\"[^\"]+|'[^']+)")
SCHEME = r"(?:Bearer|Basic|Digest|Token)\b"
IN_HEADER = re.compile(
    rf"(\bBearer\s+|\bAuthorization\s{{0,9}}[:=]\s{{0,9}}(?:{SCHEME}\s{{0,9}})?)(?!{SCHEME})[^\s\"',]{{6,}}",
    re.IGNORECASE,
)
SHORTEST = 6  # a shorter value would be found in words by chance


def without_secrets(value: Any) -> Any:
    """A JSON-able value with secrets left out: by the names of keys, in addresses, and what the environment holds."""
    if isinstance(value, Mapping):
        return {k: LEFT_OUT if _names_secret(str(k)) and v else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return _clean(value) if isinstance(value, str) else value


def _names_secret(name: str) -> bool:
    """Whether what has this name is a secret: `api_key`, `accessToken`, `X-Amz-Signature`."""
    return bool(SECRET.search(WORD_IN_NAME.sub("_", name)))


def _clean(text: str) -> str:
    text = IN_HEADER.sub(rf"\1{LEFT_OUT}", IN_ADDRESS.sub(LEFT_OUT, text))
    text = IN_QUERY.sub(lambda found: f"{found[1]}={LEFT_OUT}" if _names_secret(found[1]) else found[0], text)
    text = IN_JSON.sub(
        lambda found: f"{found[1]}{found[4][0]}{LEFT_OUT}" if _names_secret(found[3]) else found[0], text
    )
    for secret in _secrets_of_environment():
        text = re.sub(re.escape(secret), LEFT_OUT, text, flags=re.IGNORECASE)  # %2f and %2F are the same
    return text


def _secrets_of_environment() -> Iterator[str]:
    """Values of variables, and passwords in their addresses, also as they are written within an address."""
    for name, value in os.environ.items():
        inside = [found.partition(":")[2] for found in IN_ADDRESS.findall(value)]
        for secret in [value] * _names_secret(name) + inside:
            for text in dict.fromkeys((secret, unquote(secret))):
                if len(text) >= SHORTEST:
                    yield from dict.fromkeys((text, quote(text, safe=""), quote(text), quote_plus(text)))

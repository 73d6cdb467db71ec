"""Inputs for a reader: sound files of its kind, damaged byte by byte, or by the values in them; the same for a seed.

Two ways in turn. Bytes: flips, cuts, repeats, splices of two files, words that mean something to some reader. Values
(JSON, JSON Lines, YAML): a value of another kind, a name that leads out, a number beyond all bounds, brackets without
end, in place of any value; a key gone, doubled or renamed. So that inputs reach what stands behind the decoder too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, -0.0),
    *(float("inf"), float("nan"), "", " ", "\0", "a\nb", "../../out", "/etc/passwd", "..\\out", "C:\\out", "con", "."),
    *("x" * 5000, "\ud800", "\u202e\u2028", "é" * 300, "<script>", "{question}", "{0.__class__}", "%s", "[1,2,3,4]"),
    *("1e999", "nan", "$tensor", "data:image/png;base64,AAAA", "2001-99-99", "[[0, 0, 1e400, 2]]"),
    *([], {}, [[]], [None], [1, 2], ["a", "b"], {"a": 1}, {"": ""}, {"$tensor": "x"}, [1.0] * 40),
    *(_nested(70), _nested(20), {"a": {"b": {"c": []}}}),
)
TOKENS: tuple[bytes, ...] = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b"\r\n", b"\0", b" ", b"\t", b"-", b"'", b"&a ", b"*a"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"1" * 30, b"-1", b"0x", b"0b_", b"1:1:1"),
    *(b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\ud800", b"\\u0000", b"../../out"),
    *(b"[" * 200, b'{"a":' * 100, b"- " * 100, b"!!python/object:os.system ", b"!!binary ", b"!!timestamp ", b"<<: "),
    *(b"2001-99-99", b"{{7*7}}", b"<script>", b"%", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"PK\x03\x04"),
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x00" * 64),
)


@dataclass(frozen=True)
class Seed:
    """A sound input; `kind` is how its values are changed: `json`, `lines`, `yaml`, or `bytes` only.

    `head` stands before it unchanged: which file of a folder it is.
    """

    content: bytes
    kind: str = "bytes"
    head: bytes = b""


def made(seeds: Sequence[Seed], *, campaign: str, number: int) -> bytes:
    """Input `number` of a campaign."""
    draw = random.Random(f"{campaign}/{number}")
    seed = seeds[draw.randrange(len(seeds))]
    content = seed.content
    if seed.kind != "bytes" and draw.random() < 0.7:
        content = CHANGED[seed.kind](content, draw)
        if draw.random() < 0.85:
            return seed.head + content
    for _ in range(1 + int(draw.expovariate(0.7))):
        content = _damaged(content, seeds, draw)
    return seed.head + content


def _damaged(content: bytes, seeds: Sequence[Seed], draw: random.Random) -> bytes:
    size = len(content)
    at = draw.randrange(size + 1)
    end = min(size, at + int(draw.expovariate(0.1)) + 1)
    match draw.randrange(9):
        case 0:
            return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        case 1 if at < size:
            return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
        case 2:
            return content[:at]
        case 3:
            return content[:at] + content[end:]
        case 4:
            return content[:end] + content[at:end] * draw.choice((1, 1, 2, 50)) + content[end:]
        case 5 | 6:
            return content[:at] + draw.choice(TOKENS) + content[draw.choice((at, end)) :]
        case 7:
            other = draw.choice(seeds).content
            return content[:at] + other[draw.randrange(len(other) + 1) :]
        case _:
            return content[:at] + draw.randbytes(draw.randrange(12)) + content[end:]


def _json(content: bytes, draw: random.Random) -> bytes:
    return _dumped(_changed(json.loads(content), draw))


def _yaml(content: bytes, draw: random.Random) -> bytes:
    import yaml

    return _dumped(_changed(yaml.safe_load(content), draw))  # JSON is YAML


def _lines(content: bytes, draw: random.Random) -> bytes:
    lines = content.rstrip(b"\n").split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = _json(lines[at], draw)
    if draw.random() < 0.1:
        lines.append(draw.choice(lines))
    return b"\n".join(lines) + b"\n"


CHANGED: dict[str, Callable[[bytes, random.Random], bytes]] = {"json": _json, "yaml": _yaml, "lines": _lines}


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _changed(value: Any, draw: random.Random) -> Any:
    for _ in range(1 + int(draw.expovariate(1.2))):
        places = list(_places(value))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        match draw.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("", "\0", "x", "$tensor", "__metadata__", *holder))] = holder.pop(key)
            case 1 | 2:
                other, name = draw.choice(places)
                holder[key] = other.get(name) if isinstance(other, dict) else other[min(name, len(other) - 1)]
                if len(str(holder[key])) > 20_000:  # a value inside itself, again and again
                    holder[key] = None
            case 3 if isinstance(holder, list):
                holder += [holder[key]] * draw.choice((1, 3))
            case _:
                holder[key] = json.loads(json.dumps(draw.choice(VALUES)))
        if _is_knotted(value):
            return draw.choice(VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a value."""
    found, waiting = [], [value]
    while waiting and len(found) < 5000:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                waiting.append(one[key])
    return found


def _is_knotted(value: Any) -> bool:
    try:
        json.dumps(value)
    except (ValueError, RecursionError):  # it holds itself
        return True
    return False

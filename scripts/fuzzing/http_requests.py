"""Requests for the two HTTP servers: what their schema allows, sound requests with changed values, and damaged HTTP.

A request is the bytes of one connection, with placeholders for what only the running server knows (its address, where
it put an upload). It follows from server, seed and number alone.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fuzzing.inputs import VALUES, Seed, made
from fuzzing.readers import image_files

HOST = b"{HOST}"
META = {"_type": "gradio.FileData"}
USUAL: dict[str, Any] = {"image": None, "textbox": "what?", "dropdown": "task-0", "stage": 1, "radio": "strict"}


@dataclass(frozen=True)
class Request:
    """Bytes to send.

    Attributes:
        closes: whether the client says after a moment that nothing follows; else a server may wait for the rest.
        streams: whether an answer without end is what the route is for, so that the client leaves after its first part.
    """

    content: bytes
    closes: bool = False
    streams: bool = False


@dataclass(frozen=True)
class Server:
    """What is known of a server that is attacked.

    Attributes:
        outside: files that no answer may hold anything of.
        model: what the chat endpoint calls its model.
        schema: of a chat request.
        events: of the playground: kinds of the inputs of each event.
    """

    outside: tuple[str, ...]
    model: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def http(method: str, path: str, body: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    """A sound request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: {HOST}", "Connection: close"]
    if body or method == "POST":
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def of_server(server: Server, draw: random.Random) -> list[Request]:
    """Requests of one connection each, to the chat endpoint."""
    match draw.randrange(20):
        case 0 | 1 | 2 | 3 | 4 | 5:
            value = _of_schema(server.schema, server.schema, draw)
            if isinstance(value, dict) and draw.random() < 0.8:
                value["model"] = _model(server, draw)
            return [_chat(json.dumps(value).encode())]
        case 6 | 7 | 8 | 9 | 10:
            return [_chat(_changed(json.dumps(_question(server, draw)).encode(), draw))]
        case 11 | 12:
            question = _question(server, draw, url=_url(_image(draw)))
            return [_chat(json.dumps(question).encode())]
        case 13 | 14:
            return [_path(server, draw, ("/v1/models/", "/", "/v1/", "/health", "/metrics", "/v1/chat/completions/"))]
        case 15 | 16:
            return [_headers(http("POST", "/v1/chat/completions", _body(server)), draw)]
        case _:
            sound = [http("POST", "/v1/chat/completions", _body(server)), http("GET", "/health"), _chunked(server)]
            return [_damaged(sound, draw)]


def of_playground(server: Server, draw: random.Random) -> list[Request]:
    """Requests of one connection each, to the page."""
    match draw.randrange(20):
        case 0 | 1 | 2 | 3 | 4 | 5:
            return _event(server, draw)
        case 6 | 7 | 8:
            return [_file(server, draw)]
        case 9:
            return [_upload(draw)]
        case 10 | 11:  # what was dropped is named in an event, and asked for
            dropped = {"path": "{UPLOAD}", "meta": META, **_extra(draw)}
            content = _join(server, draw, "image", draw.choice(({**dropped}, [dropped], "{UPLOAD}")))
            return [_upload(draw), *content, Request(http("GET", "/gradio_api/file={UPLOAD}"))]
        case 12 | 13 | 14:
            return [_route(server, draw)]
        case 15 | 16:
            return [_headers(http("POST", "/gradio_api/queue/join", _join_body(0, [], "s")), draw)]
        case _:
            sound = [http("POST", "/gradio_api/queue/join", _join_body(0, [], "s")), http("GET", "/config")]
            return [_damaged([*sound, _upload(draw).content], draw)]


KINDS: dict[str, Callable[[Server, random.Random], list[Request]]] = {
    "server": of_server,
    "playground": of_playground,
}


def requests_of(server: Server, kind: str, *, seed: str, number: int) -> list[Request]:
    """Input `number`: some requests, in order."""
    return KINDS[kind](server, random.Random(f"{seed}/{kind}/{number}"))


def _chat(body: bytes) -> Request:
    return Request(http("POST", "/v1/chat/completions", body))


STAGES = (
    *("", "", ":base", ":1", ":2", ":expert=task-0", ":expert=", ":0", ":-1", ":01", ":1:1", ":99999999999999999999"),
    *(":1\0", ":base ", ":BASE", ":expert=../task-0", ":expert=(base)", ":../../stages/01-task-0", ":%31", ":\u0661"),
)
"""What follows a model's name: stages and experts that there are, and what resembles them."""


def _model(server: Server, draw: random.Random) -> str:
    return server.model + draw.choice(STAGES)


def _body(server: Server) -> bytes:
    return json.dumps(_question(server, random.Random(0))).encode()


def _question(server: Server, draw: random.Random, url: str | None = None) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": url or _url(_images()[0])}}
    content = [{"type": "text", "text": "what?"}, image]
    whole: dict[str, Any] = {"model": server.model, "messages": [{"role": "user", "content": content}]}
    if draw.random() < 0.3:
        whole |= {"max_tokens": 2, "stream": draw.random() < 0.5, "stop": ["x"], "temperature": 0}
    if draw.random() < 0.3:
        whole["model"] = _model(server, draw)
    if draw.random() < 0.2:
        whole["messages"].insert(0, {"role": draw.choice(("system", "user", "assistant")), "content": "be short"})
    return whole


def _changed(body: bytes, draw: random.Random) -> bytes:
    return made([Seed(body, "json")], campaign=str(draw.random()), number=0)


@cache
def _images() -> list[bytes]:
    return image_files()


@cache
def _large(side: int) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.new("1", (side, side)).save(held, "PNG")
    return held.getvalue()


def _image(draw: random.Random) -> bytes:
    if draw.random() < 0.02:
        return _large(draw.choice((2000, 4900, 5100, 9400)))
    if draw.random() < 0.3:
        return draw.choice(_images())
    return made([Seed(content) for content in _images()], campaign=str(draw.random()), number=0)


def _url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _of_schema(schema: Mapping[str, Any], whole: Mapping[str, Any], draw: random.Random, depth: int = 0) -> Any:
    """A value that a JSON schema allows, or now and then one that it does not."""
    if draw.random() < 0.03 or depth > 8:
        return draw.choice(VALUES)
    if "$ref" in schema:
        return _of_schema(whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], whole, draw, depth + 1)
    for choice in ("anyOf", "oneOf", "enum"):
        if choice in schema:
            one = draw.choice(schema[choice])
            return one if choice == "enum" else _of_schema(one, whole, draw, depth + 1)
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            wanted, most = set(schema.get("required", ())), schema.get("properties", {})
            chosen = [name for name in most if name in wanted or draw.random() < 0.3]
            value = {name: _of_schema(most[name], whole, draw, depth + 1) for name in chosen}
            if schema.get("additionalProperties") and draw.random() < 0.1:
                value[draw.choice(("temperature", "n", "tools", "seed", "x", "", "\0"))] = draw.choice(VALUES)
            return value
        case "array":
            size = max(schema.get("minItems", 0), int(draw.expovariate(0.5)))
            return [_of_schema(schema.get("items", {}), whole, draw, depth + 1) for _ in range(size)]
        case "string":
            return draw.choice(("what?", "x", "", "\0", "é\u202e" * 50, "{{7*7}}", "a" * 3000, _url(_image(draw))))
        case "integer" | "number":
            return draw.choice((1, 2, 3, schema.get("minimum", 0), 2**63, 10**30))
        case "boolean":
            return draw.random() < 0.5
        case "null":
            return None
    return draw.choice(VALUES)


def _chunked(server: Server) -> bytes:
    body = _body(server)
    head = http("POST", "/v1/chat/completions").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def _damaged(sound: list[bytes], draw: random.Random) -> Request:
    content = made([Seed(one) for one in sound], campaign=str(draw.random()), number=0)
    return Request(content, closes=draw.random() < 0.995, streams=b"heartbeat" in content or b"queue/data" in content)


HEADERS = (
    *("Host: evil.example", "Host:", "Host: 127.0.0.1.evil.example", "Host: [::1", "Origin: https://evil.example"),
    *("Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 1e3", "Content-Length: 0x10"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: \x0bchunked"),
    *("Authorization: Bearer \xff", "Authorization: " + "x" * 9000, "Cookie: evertune=" + "x" * 9000, "Cookie: ;;=;"),
    *("Content-Type: text/plain", "Content-Type: multipart/form-data", "Content-Type: \xff", "Range: bytes=0-18446"),
    *("Expect: 100-continue", "Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade, keep-alive", "X: " * 500),
    *("Accept-Encoding: gzip;q=x", "Content-Encoding: gzip", "Forwarded: for=_x", "X-Forwarded-For: 127.0.0.1, x"),
    *("X-Forwarded-Proto: javascript", "X-Forwarded-Host: evil.example", "X-HTTP-Method-Override: DELETE"),
    *("Accept-Language: " + "en," * 3000, "If-None-Match: *", "Referer: file:///etc/passwd", "Accept: \0", " folded"),
    *("X-Gradio-User: app", "X-Gradio-Target: /etc/passwd", "X-Forwarded-Prefix: /../..", "X-Forwarded-Uri: //x"),
)


def _headers(sound: bytes, draw: random.Random) -> Request:
    """A sound request with further or replaced headers, or another method or version."""
    head, _, body = sound.partition(b"\r\n\r\n")
    first, *rest = head.split(b"\r\n")
    method, path, version = first.split(b" ")
    for _ in range(draw.choice((1, 1, 2, 3))):
        line = draw.choice(HEADERS).encode("latin-1")
        name = line.partition(b":")[0].lower()
        if draw.random() < 0.6:
            rest = [each for each in rest if each.partition(b":")[0].lower() != name]
        rest.insert(draw.randrange(len(rest) + 1), line)
    if draw.random() < 0.2:
        method = draw.choice(
            (b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"\xff", b"G" * 99)
        )
    if draw.random() < 0.1:
        version = draw.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"X", b""))
    return Request(b"\r\n".join([b" ".join((method, path, version)), *rest]) + b"\r\n\r\n" + body, closes=True)


def _named(server: Server, draw: random.Random) -> str:
    """A file that is not the caller's, as one may write it."""
    path = draw.choice(server.outside)
    ways: tuple[Callable[[str], str], ...] = (
        *(str, str, str, quote, lambda p: quote(p, safe=""), lambda p: quote(quote(p, safe=""), safe="")),
        *(lambda p: "{UPLOADS}/../../../../../../.." + p, lambda p: "../" * 12 + p.lstrip("/"), lambda p: "/" + p),
        *(lambda p: "{UPLOADS}/%2e%2e/" * 3 + p, lambda p: "file://" + p, lambda p: p + "%00.png", lambda p: p + "/."),
        *(
            lambda p: p.replace("/", "\\"),
            lambda p: p.replace("/", "//"),
            lambda p: "{UPLOADS}" + p,
            Path(path).name.__add__,
        ),
    )
    return draw.choice(ways)(path)


def _path(server: Server, draw: random.Random, starts: tuple[str, ...]) -> Request:
    word = str(draw.choice([value for value in VALUES if isinstance(value, str)]))
    tail = draw.choice((_named(server, draw), quote(word[:2000], errors="replace"), quote(_model(server, draw)), ""))
    query = draw.choice(("", "", "?" + "a=b&" * 500, "?__theme=%00", "?session_hash=x", "?\xff"))
    path = (draw.choice(starts) + tail + query).replace(" ", "%20").replace("\n", "%0a").replace("\r", "%0d")
    streams = "heartbeat" in path or "queue/data" in path
    return Request(http(draw.choice(("GET", "GET", "GET", "POST", "HEAD", "DELETE")), path), streams=streams)


def _file(server: Server, draw: random.Random) -> Request:
    starts = (
        "/gradio_api/file=",
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/file=",
        "/gradio_api/upload_progress?id=",
    )
    return _path(server, draw, starts)


ROUTES = """/ /config /info /gradio_api/info /gradio_api/startup-events /gradio_api/cancel /gradio_api/reset /theme.css
    /gradio_api/heartbeat/ /gradio_api/queue/data?session_hash= /gradio_api/upload_progress?upload_id= /static/ /assets/
    /gradio_api/deep_link?session_hash= /gradio_api/proxy= /gradio_api/run/ask /gradio_api/call/ask /login /monitoring
    /gradio_api/component_server /gradio_api/custom_component/ /gradio_api/stream/ /gradio_api/dev/reload /svelte/
    /favicon.ico /manifest.json /robots.txt /enter /gradio_api/queue/status /gradio_api/process_recording""".split()


def _route(server: Server, draw: random.Random) -> Request:
    if draw.random() < 0.6:
        return _path(server, draw, tuple(ROUTES))
    body = _changed(json.dumps({"event_id": "e", "session_hash": "s", "fn_index": 0, "data": ["x"]}).encode(), draw)
    path = draw.choice([route for route in ROUTES if "gradio_api" in route])
    return Request(http("POST", path, body), streams="heartbeat" in path or "queue/data" in path)


def _extra(draw: random.Random) -> dict[str, Any]:
    keys = ("url", "orig_name", "mime_type", "size", "is_stream", "meta", "path", "x")
    return {draw.choice(keys): draw.choice(VALUES) for _ in range(draw.choice((0, 0, 1, 2)))}


def _value(server: Server, draw: random.Random) -> Any:
    """For an input: any value, or one that names a file."""
    if draw.random() < 0.4:
        return draw.choice(VALUES)
    whole = {"path": _named(server, draw), "meta": META, **_extra(draw)}
    return draw.choice((whole, {"value": whole}, [whole], whole["path"], {"__type__": "update", "value": whole}))


def _join_body(event: Any, data: Any, session: Any, **more: Any) -> bytes:
    return json.dumps({"fn_index": event, "data": data, "session_hash": session, **more}).encode()


def _join(server: Server, draw: random.Random, kind: str | None, value: Any) -> list[Request]:
    """An event with `value` at an input of a kind (any if None), and the request for what it answers."""
    places = [(event, at) for event, kinds in server.events.items() for at, k in enumerate(kinds) if kind in (None, k)]
    event, at = draw.choice(places)
    data = [USUAL.get(each) for each in server.events[event]]
    data[at] = value
    session = f"s{draw.getrandbits(40)}"
    join = http("POST", "/gradio_api/queue/join", _join_body(event, data, session))
    return [Request(join), Request(http("GET", f"/gradio_api/queue/data?session_hash={session}"), streams=True)]


def usual_event(server: Server, session: str) -> list[Request]:
    """What the page sends itself, and the request for what it answers."""
    event, kinds = next(iter(server.events.items()))
    join = http("POST", "/gradio_api/queue/join", _join_body(event, [USUAL.get(kind) for kind in kinds], session))
    return [Request(join), Request(http("GET", f"/gradio_api/queue/data?session_hash={session}"))]


def _event(server: Server, draw: random.Random) -> list[Request]:
    if draw.random() < 0.6:
        return _join(server, draw, None, _value(server, draw))
    event, session = draw.choice(list(server.events)), f"s{draw.getrandbits(40)}"
    data = [USUAL.get(each) for each in server.events[event]]
    clicked = {"act": draw.choice(("pick", "cell", "ask", "more-images", "x")), "run": "0", "stage": "1", "task": "0"}
    clicked |= {"place": "0", "kind": "all", "count": "5"}
    body = _join_body(event, data, session, event_data=clicked, trigger_id=event)
    if draw.random() < 0.8:
        body = _changed(body, draw)
    data_of = Request(http("GET", f"/gradio_api/queue/data?session_hash={session}"), streams=True)
    return [Request(http("POST", "/gradio_api/queue/join", body)), data_of]


def _upload(draw: random.Random) -> Request:
    names = (
        "a.png",
        "a.html",
        "a.svg",
        "../../out",
        "/etc/passwd",
        "a" * 300,
        "",
        ".",
        "..",
        "\0",
        "a\r\nX: y",
        "con",
        "é",
    )
    name, boundary = draw.choice(names), draw.choice(("b", "b", "b", "-" * 80, "x y"))
    content = draw.choice((_image(draw), b"<script>1</script>", b"", b"<svg onload='1'/>"))
    field_name = draw.choice(("files", "files", "files", "x", ""))
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{name}"\r\n'
    form = head.encode() + b"Content-Type: image/png\r\n\r\n" + content + f"\r\n--{boundary}--\r\n".encode()
    path = draw.choice(("/gradio_api/upload", "/gradio_api/upload?upload_id=x", "/gradio_api/upload?upload_id=../x"))
    return Request(http("POST", path, form, f"multipart/form-data; boundary={boundary}"))

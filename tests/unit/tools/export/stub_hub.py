"""A stub of the hub's API: one user, repositories in memory, and a list of what was asked."""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_stubStubStubStubStub"


class Hub:
    """What the stub holds: `repos` by name, with `private` and `files`; replies that a test replaces (`refusals`)."""

    def __init__(self):
        self.repos, self.asked, self.commits, self.refusals, self.role = {}, [], [], {}, "write"

    def reply(self, method, path, token, body):
        """Status and JSON of a reply."""
        self.asked.append((method, path))
        for pattern, status in self.refusals.items():
            if re.search(pattern, path):
                return status, {"error": f"no, with {token}"}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"name": "alice", "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name, _, rest = path.removeprefix("/api/models/").partition("/preupload")
        name, _, commit = name.partition("/commit")
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if rest:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return 200, {"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]}
        if commit:
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        repo = self.repos[name]
        return 200, {"id": name, "private": repo["private"], "siblings": [{"rfilename": f} for f in repo["files"]]}

    def _create(self, wanted):
        name = f"{wanted.get('organization') or 'alice'}/{wanted['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"/{name}"}
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.repos[name] = {"private": bool(private), "files": {".gitattributes": b""}}
        return 200, {"url": f"http://127.0.0.1/{name}", "name": name, "id": name}

    def _commit(self, name, lines):
        self.commits.append(lines[0]["value"]["summary"])
        for line in lines[1:]:
            self.repos[name]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"http://127.0.0.1/{name}/commit/1", "commitOid": "1", "pullRequestUrl": None}


@contextmanager
def served(hub):
    """The address of `hub` while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            status, content = hub.reply(self.command, path, self.headers.get("Authorization"), body)
            text = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_HEAD = _do  # noqa: N815

        def log_message(self, *_about):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

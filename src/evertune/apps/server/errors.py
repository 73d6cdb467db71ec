"""Errors as clients of this protocol expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from fastapi.responses import JSONResponse

LONGEST = 1000
"""Characters of a message: it may repeat what a request says, and clients may leave hundreds of replies unread."""


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: what is wrong and what to do.
        code: a short name for programs.
        param: the field of the request.
    """

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(_cut(message))
        self.status, self.code, self.param = status, code, param and _cut(param)

    def response(self) -> JSONResponse:
        """As clients expect it."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        body = {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        if self.status in (413, 429):  # the rest of the request is not read
            headers["Connection"] = "close"
        return JSONResponse(body, status_code=self.status, headers=headers)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"

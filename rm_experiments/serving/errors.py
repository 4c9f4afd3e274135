"""What a request is refused with: a status and one line, the same JSON for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel, Field

_KINDS = {
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found",
    405: "method_not_allowed", 408: "request_timeout", 413: "too_large",
    415: "unsupported_media_type", 422: "invalid_request", 429: "queue_full",
    500: "internal_error", 503: "unavailable", 504: "timeout",
}  # fmt: skip
_LONGEST = 500


class RequestError(Exception):
    """A request that is not answered with a reward."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """`message`: for people, one line."""
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class ErrorDetail(BaseModel):
    """Why."""

    message: str = Field(description="For people, one line")
    type: str = Field(description="A word for programs")
    code: int = Field(description="The HTTP status")


class ErrorAnswer(BaseModel):
    """What every refused request is answered with."""

    error: ErrorDetail


class Json(Response):
    """JSON in ASCII, so that nothing that a client sent can break it, and with finite numbers only."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, ensure_ascii=True, separators=(",", ":")).encode()


def error_response(error: RequestError) -> Json:
    """As JSON."""
    line = "".join(one if one.isprintable() else " " for one in error.message)
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
    kind = _KINDS.get(error.status, "error")
    return Json(
        {"error": {"message": line, "type": kind, "code": error.status}}, status_code=error.status,
        headers=error.headers,
    )  # fmt: skip

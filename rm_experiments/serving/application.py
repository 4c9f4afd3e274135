"""The ASGI application: the routes, their errors in one form, and the gate before them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rm_experiments import __version__
from rm_experiments.config.serve_schema import LimitsConfig
from rm_experiments.serving.errors import RequestError, error_response
from rm_experiments.serving.foreign_routes import foreign_routes
from rm_experiments.serving.gate import OPEN_ROUTES, Gate
from rm_experiments.serving.metrics import Metrics
from rm_experiments.serving.routes import own_routes, page_routes, state_routes
from rm_experiments.serving.service import Service

_SUMMARY = "Rewards of answers by saved reward models, batched across requests."


def make_application(
    service: Service, metrics: Metrics, limits: LimitsConfig, token: str | None, only_local: bool = False
) -> Gate:
    """All routes behind the gate.

    Args:
        only_local: whether only this machine can reach it.
    """
    app = FastAPI(
        title="rm-serve", version=__version__, summary=_SUMMARY, docs_url=None, redoc_url=None,
        separate_input_output_schemas=False, redirect_slashes=False,
    )  # fmt: skip
    gate = Gate(app, limits, token, metrics, only_local)
    app.include_router(own_routes(service))
    app.include_router(foreign_routes(service))
    app.include_router(state_routes(service, metrics, gate))
    app.include_router(page_routes(lambda: app.openapi()))
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    metrics.watch(service.batcher)
    _describe_token(app, token)
    gate.routes = OPEN_ROUTES | frozenset(app.openapi()["paths"])
    return gate


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(RequestError(400, f"the body is no JSON: {first.get('ctx', {}).get('error', '')}"))
    names = [str(one) for one in first["loc"] if one != "body"]
    place = ".".join(names[:6])
    message = str(first["msg"]).removeprefix("Value error, ")
    return error_response(RequestError(422, f"{place}: {message}" if place else message))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is no {path}; /docs lists all routes", 405: f"{path} is not called by {request.method}"}
    said = message.get(error.status_code, str(error.detail))
    return error_response(RequestError(error.status_code, said, error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    # The gate writes the error into the log.
    return error_response(RequestError(500, "the server failed; its log says why"))


def _describe_token(app: FastAPI, token: str | None) -> None:
    """Say in the OpenAPI document which routes need the token."""
    if token is None:
        return
    made = app.openapi

    def described() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path not in OPEN_ROUTES:
                    operation["security"] = [{"token": []}]
        return document

    app.openapi = described  # type: ignore[method-assign]

"""The OpenAPI 3.1 document of the API, made of its routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

import ftpsd
from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import Parameter, Schema
from ftpsd.admin.api.problem import Json
from ftpsd.admin.api.routes import Answer, Call, Route, answer

DESCRIPTION = "Shows and steers a running ftpsd. Served on a Unix socket; see docs/operating.md."

#: Errors that every route may answer with.
_ALWAYS = (400, 403, 500)
#: Errors of routes with a body.
_OF_BODIES = (413, 415)


def with_document(routes: Iterable[Route]) -> list[Route]:
    """Return the routes and one more, which serves the document of all."""
    made: list[Answer] = []

    async def show(_: Call) -> Answer:
        return made[0]

    route = Route("GET", "/v1/openapi.json", show, "Show this document", {"type": "object"})
    every = [*routes, route]
    made.append(answer(document(every)))
    return every


def document(routes: Iterable[Route]) -> Json:
    """Return the document."""
    paths: dict[str, dict[str, Json]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ftpsd admin API", "version": ftpsd.__version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas.COMPONENTS},
    }


def _operation(route: Route) -> dict[str, Json]:
    words = re.findall(r"[a-z]+", route.path.removeprefix("/v1/"))
    made: dict[str, Json] = {
        "operationId": "_".join((route.method.lower(), *words)),
        "summary": route.summary,
        "parameters": [*map(_query, route.parameters), *(_in_path(*each) for each in route.path_parameters.items())],
        "responses": _responses(route),
    }
    if route.body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.body}}}
    return made


def _responses(route: Route) -> dict[str, Json]:
    kind = "text/event-stream" if route.is_stream else "application/json"
    found: dict[str, Json] = {str(route.status): _response(route.status, kind, route.answer)}
    for status in sorted({*_ALWAYS, *(_OF_BODIES if route.body is not None else ()), *route.problems}):
        found[str(status)] = _response(status, "application/problem+json", schemas.to("Problem"))
    return found


def _response(status: int, kind: str, schema: Schema) -> Json:
    return {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": schema}}}


def _query(parameter: Parameter) -> Json:
    made: dict[str, Json] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": parameter.schema,
    }
    if parameter.schema.get("type") == "array":  # separated by commas
        made |= {"style": "form", "explode": False}
    return made


def _in_path(name: str, schema: Schema) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}

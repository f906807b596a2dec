"""What a resource of the API is: Route, the Call that it gets, and the Answer that it returns."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from attrs import Factory, frozen

from ftpsd.admin.api.arguments import Arguments, Parameter, Schema
from ftpsd.admin.api.problem import Json
from ftpsd.system.slices import Slices
from ftpsd.web.server import BoundedRequest

T = TypeVar("T")

#: Items of a list between two looks at the clock: they take 0.1 ms.
_FEW = 10


@frozen
class Call:
    """One request, with its arguments parsed."""

    arguments: Arguments
    #: The parts of the path that the route names in braces.
    path: Mapping[str, str]
    body: bytes
    #: Who asks, as the log and the audit file show it.
    administrator: str
    slices: Slices
    #: For an answer that is a stream: see `Stream`.
    request: BoundedRequest


@frozen
class Answer:
    """A complete answer in JSON."""

    body: bytes
    status: int = 200


class Stream:
    """The answer of a handler that writes to the request itself, for as long as the client listens."""


@frozen
class Route:
    """One method of one resource. The OpenAPI document is made of all routes."""

    method: str
    #: As `/v1/sessions/{number}`.
    path: str
    handle: Callable[[Call], Awaitable[Answer | Stream]]
    summary: str
    #: The schema of the answer by its status, and what it is called there.
    answer: Schema
    status: int = 200
    parameters: Sequence[Parameter] = ()
    #: The schema of the request's body, if it has one.
    body: Schema | None = None
    #: The schema of each part of the path that is named in braces.
    path_parameters: Mapping[str, Schema] = Factory(dict)
    #: Statuses of errors that the handler answers with, besides those that every route has.
    problems: Sequence[int] = ()
    #: Whether the answer is Server-Sent Events.
    is_stream: bool = False


def answer(value: Json, status: int = 200) -> Answer:
    """Return an answer with a value of JSON."""
    return Answer(encode(value), status)


def encode(value: Json) -> bytes:
    """Return JSON. NaN has none: it raises ValueError."""
    return json.dumps(value, allow_nan=False).encode()


async def list_answer(
    slices: Slices, name: str, items: Iterable[T], form: Callable[[T], Json], rest: Mapping[str, Json] | None = None
) -> Answer:
    """Return an answer with a list, which is made in slices, and `rest`: further members."""
    pieces: list[bytes] = []
    for number, item in enumerate(items):
        pieces.append(encode(form(item)))
        if number % _FEW == 0:
            await slices.pause()
    end = b"".join(b", %s: %s" % (encode(key), encode(value)) for key, value in (rest or {}).items())
    return Answer(b"".join([f'{{"{name}": ['.encode(), b", ".join(pieces), b"]", end, b"}"]))

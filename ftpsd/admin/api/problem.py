"""Errors of the API in the form of RFC 9457 (application/problem+json): Problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias

#: A value that JSON has.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class Problem(Exception):
    """An error answer. `detail` says what is wrong and what helps; `more` are further members of the answer."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Json) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self._more = more

    def json(self) -> dict[str, Json]:
        """Return the body of the answer."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": str(self), **self._more}


def bad_value(name: str, problem: str, remedy: str) -> Problem:
    """Return the answer to a parameter of the query, or a member of the body, that cannot be used."""
    return Problem(400, f"{name} {problem}. {remedy}", parameter=name, remedy=remedy)

"""The resources for users: their effective settings, and what they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial, singledispatch
from typing import cast

import attrs

from ftpsd.accounts.user_store import UnknownUser, User
from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import Parameter
from ftpsd.admin.api.bans import Bans
from ftpsd.admin.api.problem import Json, Problem
from ftpsd.admin.api.routes import Answer, Call, Route, answer, list_answer
from ftpsd.admin.parts import Parts
from ftpsd.config.settings import Settings, Umask, UserLimits, UserSettings, UserTls
from ftpsd.events.record import valid_text
from ftpsd.limits.bans.ban_list import Ban, stored_name
from ftpsd.protocol.login_rules import Hours

#: The most users of an answer. A configuration may have 100,000.
MOST = 1000

PAGE = (
    Parameter("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}, "How many to leave out."),
    Parameter("limit", {"type": "integer", "minimum": 0, "maximum": MOST}, "How many to return at most."),
)


class Users:
    """The users of the configuration in effect."""

    def __init__(self, parts: Parts, bans: Bans) -> None:
        self._parts = parts
        self._bans = bans

    def routes(self) -> list[Route]:
        """Return the routes of this subject."""
        return [
            Route("GET", "/v1/users", self._list, "List users", schemas.listed("users", "User"), parameters=PAGE),
            Route(
                "GET",
                "/v1/users/{name}",
                self._show,
                "Show a user",
                schemas.to("User"),
                path_parameters={"name": {"type": "string", "minLength": 1}},
                problems=[404],
            ),
        ]

    async def _list(self, call: Call) -> Answer:
        offset, limit = call.arguments.number("offset", 0, 10**9), call.arguments.number("limit", MOST, MOST)
        store = self._parts.configuration().users
        names: list[str] = []
        total = 0
        async for name in store.names():
            if offset <= total < offset + limit:
                names.append(name)
            total += 1
            if total % 1000 == 0:
                await call.slices.pause()
        users = []
        for name in names:
            users.append(await store.find(name))
            await call.slices.pause()
        form = partial(self.form, bans=self._bans.by_user())
        return await list_answer(call.slices, "users", users, form, total)

    async def _show(self, call: Call) -> Answer:
        try:
            user = await self._parts.configuration().users.find(call.path["name"])
        except UnknownUser:
            raise Problem(404, "There is no user of this name. GET /v1/users lists all.") from None
        return answer(self.form(user, self._bans.by_user()))

    def form(self, user: User, bans: Mapping[str, Sequence[Ban]]) -> Json:
        """Return a user in JSON: the settings, and what is used now. There is no password and no hash."""
        parts = self._parts
        settings = effective(user.settings, parts.configuration().settings)
        used = None if settings.home is None else parts.quotas.counted(settings.home)
        return {
            "name": valid_text(user.name),
            "settings": to_json(settings),
            "usage": None if used is None else {"bytes": max(0, used.bytes), "files": max(0, used.files)},
            "quota": {"bytes": settings.quota.bytes, "files": settings.quota.files},
            "bans": [self._bans.form(ban) for ban in bans.get(stored_name(user.name), ())],
            "last_login": None,
            "sessions": parts.counts.users.sessions.get(user.name, 0),
        }


def effective(user: UserSettings, server: Settings) -> UserSettings:
    """Return the settings of a user, with those of the server where the user has none."""
    limits, own = server.limits, user.limits
    return attrs.evolve(
        user,
        limits=UserLimits(
            sessions=limits.sessions_per_user if own.sessions is None else own.sessions,
            transfers=limits.transfers_per_user if own.transfers is None else own.transfers,
            upload_rate=own.upload_rate,
            download_rate=own.download_rate,
            session_upload_rate=own.session_upload_rate or limits.session_upload_rate,
            session_download_rate=own.session_download_rate or limits.session_download_rate,
        ),
        tls=UserTls(user.tls.data_session or server.tls.data_session, user.tls.close_notify or server.tls.close_notify),
    )


@singledispatch
def to_json(value: object) -> Json:
    """Return a setting in JSON, in the words of the configuration; those of a section without passwords."""
    if not attrs.has(type(value)):
        return str(value)  # addresses, networks, paths
    names = [
        field.name for field in attrs.fields(cast(type[attrs.AttrsInstance], type(value))) if field.name != "password"
    ]
    return {name: to_json(getattr(value, name)) for name in names}


@to_json.register
def _(value: int) -> Json:
    return value


@to_json.register
def _(value: None) -> Json:
    return None


@to_json.register
def _(value: Umask) -> Json:
    return f"{value:03o}"


@to_json.register
def _(value: str) -> Json:
    return valid_text(value)


@to_json.register
def _(value: Hours) -> Json:
    return value.text


@to_json.register
def _(value: datetime) -> Json:
    return value.isoformat()


@to_json.register
def _(value: frozenset) -> Json:  # type: ignore[type-arg]
    return [to_json(each) for each in sorted(value)]


@to_json.register
def _(value: tuple) -> Json:  # type: ignore[type-arg]
    return [to_json(each) for each in value]


@to_json.register
def _(value: dict) -> Json:  # type: ignore[type-arg]
    return {f"/{'/'.join(path)}": to_json(each) for path, each in value.items()}

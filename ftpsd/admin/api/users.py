"""The resources for users: their effective settings, and what they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from ftpsd.accounts.effective import effective, to_json
from ftpsd.accounts.last_logins import LastLogin
from ftpsd.accounts.user_store import LoginDenied, SourceFailed, UnknownUser, User
from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import Parameter
from ftpsd.admin.api.bans import Bans
from ftpsd.admin.api.problem import Json, Problem
from ftpsd.admin.api.routes import Answer, Call, Route, answer, list_answer
from ftpsd.admin.parts import Parts
from ftpsd.config.settings import QuotaSettings
from ftpsd.events.record import iso_time, valid_text
from ftpsd.limits.bans.ban_list import stored_name
from ftpsd.limits.bans.ban_table import Ban
from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.paths import VirtualPath

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
            Route(
                "GET",
                "/v1/users",
                self._list,
                "List the users of the YAML files, and those of other sources who have logged in recently",
                schemas.listed("users", "User"),
                parameters=PAGE,
            ),
            Route(
                "GET",
                "/v1/users/{name}",
                self._show,
                "Show a user of the YAML files or of a source, which is asked",
                schemas.to("User"),
                path_parameters={"name": {"type": "string", "minLength": 1}},
                problems=[404, 503],
            ),
        ]

    async def _list(self, call: Call) -> Answer:
        offset, limit = call.arguments.number("offset", 0, 10**9), call.arguments.number("limit", MOST, MOST)
        store = self._parts.users()
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
            with suppress(UnknownUser, SourceFailed):  # forgotten meanwhile, or its home has gone
                users.append(await store.recall(name))
            await call.slices.pause()
        logins = await self._parts.last_logins.find(names)
        form = partial(self.form, bans=self._bans.by_user(), logins=logins)
        return await list_answer(call.slices, "users", users, form, {"total": total})

    async def _show(self, call: Call) -> Answer:
        try:
            user = await self._parts.users().find(call.path["name"])
        except UnknownUser:
            raise Problem(404, "There is no user of this name. GET /v1/users lists those of the YAML files.") from None
        except LoginDenied as error:
            raise Problem(404, f"The source of this user refuses: {valid_text(error.denial.text)}") from None
        except SourceFailed as error:
            raise Problem(503, valid_text(str(error))) from None
        logins = await self._parts.last_logins.find([user.name])
        return answer(self.form(user, self._bans.by_user(), logins))

    def form(self, user: User, bans: Mapping[str, Sequence[Ban]], logins: Mapping[str, LastLogin]) -> Json:
        """Return a user in JSON: the settings, and what is used now. There is no password and no hash."""
        parts = self._parts
        settings = effective(user.settings, parts.configuration().settings)
        login = logins.get(user.name)
        return {
            "name": valid_text(user.name),
            "settings": to_json(settings),
            **self._use(settings.home, settings.quota),
            "folders": [
                {"path": valid_text(str(VirtualPath(at))), **self._use(folder.path, folder.quota)}
                for at, folder in settings.folders.items()
            ],
            "groups": self._groups(settings.groups),
            "bans": [self._bans.form(ban) for ban in bans.get(stored_name(user.name), ())],
            "last_login": None if login is None else iso_time(login.time),
            "sessions": parts.counts.users.sessions.get(user.name, 0),
        }

    def _use(self, place: str | None, quota: QuotaSettings) -> dict[str, Json]:
        """Return what a home or folder holds, and its quota."""
        return _amounts(None if place is None else self._parts.quotas.counted(place), quota)

    def _groups(self, names: Sequence[str]) -> list[Json]:
        """Return what the members of each group use together, for the groups that have limits of their own."""
        shared, counts = self._parts.configuration().layers.shared, self._parts.counts.users
        return [
            {
                "name": valid_text(name),
                "sessions": counts.group_sessions.get(name, 0),
                "transfers": counts.group_transfers.get(name, 0),
                "limits": to_json(shared[name].limits),
                **_amounts(self._parts.quotas.counted_in_group(name), shared[name].quota),
            }
            for name in names
            if name in shared
        ]


def _amounts(used: Amount | None, quota: QuotaSettings) -> dict[str, Json]:
    return {
        "usage": None if used is None else {"bytes": max(0, used.bytes), "files": max(0, used.files)},
        "quota": {"bytes": quota.bytes, "files": quota.files},
    }

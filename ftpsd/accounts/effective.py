"""The effective settings of a user, and their form in JSON, for administration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import singledispatch
from typing import TypeAlias, cast

import attrs

from ftpsd.config.settings import Settings, TotpSecret, Umask, UserLimits, UserSettings, UserTls
from ftpsd.events.record import valid_text
from ftpsd.protocol.login_rules import Hours

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


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
def _(value: TotpSecret) -> Json:
    return True  # the secret is not shown


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

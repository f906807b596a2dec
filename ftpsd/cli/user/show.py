"""Show users: list, show. What they use is counted here, and the last logins and bans are read from the state file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TypedDict

from attrs import asdict, field, frozen

from ftpsd.accounts.effective import Json, effective, to_json
from ftpsd.accounts.last_logins import LastLogin, stored
from ftpsd.accounts.user_store import User
from ftpsd.cli import text
from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.cli.live import answers
from ftpsd.cli.live.limits import group_limit
from ftpsd.cli.state_file import open_state_file
from ftpsd.cli.user.group_limits import shared_limits
from ftpsd.cli.user.known import Known, all_users, find_user
from ftpsd.cli.user.users import open_users
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.groups import SharedSettings
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.users.origins import Layer, Origin, find_origins
from ftpsd.config.yaml import read
from ftpsd.events.record import iso_time, valid_text
from ftpsd.limits.bans import tables
from ftpsd.limits.bans.ban_list import stored_name
from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal, readable_size
from ftpsd.storage.backend import HomeMeter
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.places import PlacedMeter
from ftpsd.storage.stores import meter_of


class ShownFolder(TypedDict):
    """A folder of a user."""

    path: str
    directory: str
    quota: dict[str, int | None]
    usage: dict[str, int] | None


class Shown(TypedDict):
    """A user as `ftpsd user list --json` shows it."""

    name: str
    file: str
    enabled: bool
    expires: str | None
    home: str
    last_login: str | None
    last_address: str | None
    quota: dict[str, int | None]
    usage: dict[str, int] | None
    folders: list[ShownFolder]
    #: The groups of the user that have limits for all members together.
    groups: list[answers.Group]
    bans: list[dict[str, Json]]


@frozen
class State:
    """What the state file has about users."""

    logins: Mapping[str, LastLogin] = field(factory=dict)
    #: The bans of user names, by name, each with its kind, subject and end.
    bans: Mapping[str, Sequence[tuple[str, str, float | None]]] = field(factory=dict)


def show(options: argparse.Namespace) -> int:
    """Print one user."""
    configuration = _load(options.config)
    known = find_user(configuration, options.name)
    if known is None:
        raise CommandFailed("there is no such user")
    settings = effective(known.user.settings, configuration.settings)
    (shown,) = _shown(options.config, [known], configuration)
    origins = _origins(options.config, known)
    form = to_json(settings)
    if options.json:
        places = {key: [asdict(origin) for origin in each] for key, each in origins.items()}
        print(json.dumps({**shown, "settings": form, "origins": places}, indent=2))
        return 0
    for label, value in _lines(shown):
        print(f"{label:12} {text.clean(value)}")
    rows = [
        (key, text.clean(json.dumps(_inside(form, key), ensure_ascii=False)), ", ".join(map(str, each)))
        for key, each in origins.items()
        if key != "password"
    ]
    rows += _shared(settings.groups, configuration.layers.shared)
    print("\n".join(["", *text.columns([("SETTING", "VALUE", "FROM"), *rows])]))
    return 0


def _origins(configuration: str, known: Known) -> dict[str, list[Origin]]:
    """Return where each setting of a user comes from."""
    users, user = open_users(configuration), known.user
    layers = users.layers(user.name, user.settings.groups)
    if known.values is not None:
        layers[-1] = Layer(f"source {known.source}", known.values)
    found = find_origins(layers, user.settings, read(Path(configuration)))
    if user.settings.folders:
        found["folders"] = [*(each for each in found["folders"] if each.file), *users.common_folders()]
    return found


def _shared(names: Iterable[str], shared: Mapping[str, SharedSettings]) -> list[tuple[str, str, str]]:
    """Return the limits that the user shares with the other members of groups."""
    return [
        (f"shared.{section}.{key}", str(value), text.clean(f"group {name}, for all members together"))
        for name in names
        if name in shared
        for section, keys in asdict(shared[name]).items()
        for key, value in keys.items()
        if value is not None
    ]


def _inside(form: Json, key: str) -> Json:
    """Return the value of a key as in `limits.sessions`."""
    for name in key.split("."):
        form = form[name] if isinstance(form, Mapping) else None
    return form


def list_users(options: argparse.Namespace) -> int:
    """Print all users, one in each line."""
    configuration = _load(options.config)
    found = sorted(all_users(configuration), key=lambda known: known.user.name)
    shown = _shown(options.config, found, configuration)
    if options.json:
        print(json.dumps(shown, indent=2))
        return 0
    if not shown:
        print("There are no users: ftpsd user add NAME adds one.", file=sys.stderr)
        return 0
    rows = [("USER", "STATE", "LAST LOGIN", "USED", "HOME")]
    rows += [
        (text.clean(each["name"]), _state(each), _last_login(each), _usage(each), text.clean(each["home"]))
        for each in shown
    ]
    print("\n".join(text.columns(rows)))
    groups = list(_group_rows(shown))
    if groups:
        print("\n".join(["", *text.columns([("GROUP", "MEMBERS", "ALL MEMBERS TOGETHER"), *groups])]))
    return 0


def _group_rows(shown: Iterable[Shown]) -> Iterator[tuple[str, str, str]]:
    """Yield the groups that have limits for all members together: one row for each limit."""
    members: Counter[str] = Counter()
    groups: dict[str, answers.Group] = {}
    for each in shown:
        for group in each["groups"]:
            members[group["name"]] += 1
            groups[group["name"]] = group
    for name in sorted(groups):
        first = text.clean(name), str(members[name])
        for limit in groups[name]["limits"]:
            yield *first, group_limit(limit)
            first = "", ""


def _load(configuration: str) -> load.Configuration:
    try:
        return load.load(configuration)
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None


# --- facts ----------------------------------------------------------------------------------------


def _shown(path: str, found: Sequence[Known], configuration: load.Configuration) -> list[Shown]:
    """Return what is known of some users.

    Homes are counted, and the daemon is asked, before root becomes the owner of the state file.
    """
    places = open_users(path)
    local, stores = DirectoryMeter(), configuration.stores
    meter: HomeMeter = PlacedMeter(local, meter_of(stores)) if stores else local
    count = cache(partial(_count, meter))  # many users may have the same folder
    used = {
        place: count(place)
        for each in found
        for place, quota in _places(each.user.settings)
        if quota != QuotaSettings()
    }
    files = [each.source or places.place(each.user.name) for each in found]
    names = [name for each in found for name in each.user.settings.groups]
    groups = {group["name"]: group for group in shared_limits(path, names, configuration.layers.shared)}
    state = _read_state(path)
    return [_form(each.user, file, used, groups, state) for each, file in zip(found, files, strict=True)]


def _places(settings: UserSettings) -> Iterator[tuple[str, QuotaSettings]]:
    """Yield the home and the folders of a user with their quotas."""
    yield settings.home or "", settings.quota
    yield from ((folder.path, folder.quota) for folder in settings.folders.values())


def _form(
    user: User,
    file: str,
    counted: Mapping[str, Amount | None],
    groups: Mapping[str, answers.Group],
    state: State,
) -> Shown:
    settings, login = user.settings, state.logins.get(user.name)
    return {
        "name": user.name,
        "file": valid_text(file),
        "enabled": settings.enabled,
        "expires": None if settings.expires is None else settings.expires.isoformat(),
        "home": settings.home or "",
        "last_login": None if login is None else iso_time(login.time),
        "last_address": None if login is None else login.address,
        "quota": {"bytes": settings.quota.bytes, "files": settings.quota.files},
        "usage": _amount(settings.quota, counted.get(settings.home or "")),
        "folders": [
            {
                "path": valid_text(str(VirtualPath(at))),
                "directory": valid_text(folder.path),
                "quota": {"bytes": folder.quota.bytes, "files": folder.quota.files},
                "usage": _amount(folder.quota, counted.get(folder.path)),
            }
            for at, folder in settings.folders.items()
        ],
        "groups": [groups[name] for name in settings.groups if name in groups],
        "bans": [
            {"kind": kind, "subject": subject, "until": until}
            for kind, subject, until in state.bans.get(stored_name(user.name), ())
        ],
    }


def _amount(quota: QuotaSettings, used: Amount | None) -> dict[str, int] | None:
    return None if used is None or quota == QuotaSettings() else {"bytes": used.bytes, "files": used.files}


def _count(meter: HomeMeter, place: str) -> Amount | None:
    """Count what a home or folder holds; None for one that cannot be read."""
    try:
        return sum(meter.amounts(place, ()), Amount())
    except (OSError, Refusal):
        return None


def _read_state(configuration: str) -> State:
    try:
        with open_state_file(configuration) as state:
            logins, bans = stored(state), tables.current(state, time.time())
    except Unreachable as reason:
        print(f"ftpsd user: no last logins and bans: {reason}", file=sys.stderr)
        return State()
    by_name: dict[str, list[tuple[str, str, float | None]]] = {}
    for kind, subject, until in bans:
        if kind != "address":  # the subject of a site is the site, a blank and the name
            name = subject.partition(" ")[2] if kind == "site" else subject
            by_name.setdefault(name, []).append((kind, subject, until))
    return State(logins, by_name)


# --- lines ----------------------------------------------------------------------------------------


def _lines(shown: Shown) -> Iterable[tuple[str, str]]:
    """Yield what `ftpsd user show` prints above the settings."""
    yield "user", shown["name"]
    yield "state", _state(shown)
    yield "file", shown["file"]
    yield "home", shown["home"]
    yield "last login", f"{_last_login(shown)} {shown['last_address'] or ''}".strip()
    yield "used", _usage(shown)
    for folder in shown["folders"]:
        used = _usage(folder)
        yield "folder", f"{folder['path']} is {folder['directory']}" + (f", used: {used}" if used != "-" else "")
    for group in shown["groups"]:
        for limit in group["limits"]:
            yield "group", f"{group['name']} {group_limit(limit)}"


def _state(shown: Shown) -> str:
    expires = shown["expires"]
    if not shown["enabled"]:
        return "disabled"
    if expires is not None and datetime.fromisoformat(expires).timestamp() <= time.time():
        return "expired"
    return "banned" if shown["bans"] else "enabled"


def _last_login(shown: Shown) -> str:
    if shown["last_login"] is None:
        return "-"
    return datetime.fromisoformat(shown["last_login"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _usage(shown: Shown | ShownFolder) -> str:
    """Return what is used of the quota: `1.2 GiB of 10.0 GiB, 7 of 1000 files`."""
    used, quota = shown["usage"], shown["quota"]
    if used is None:
        return "-"
    parts = []
    if quota["bytes"] is not None:
        parts.append(f"{readable_size(used['bytes'])} of {readable_size(quota['bytes'])}")
    if quota["files"] is not None:
        parts.append(f"{used['files']} of {quota['files']} files")
    return ", ".join(parts)

"""Check the section `anonymous`, and add its home to those of the users: load_anonymous."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from ftpsd.accounts.anonymous import NAMES, anonymous_user
from ftpsd.accounts.user_store import Homes, User
from ftpsd.config.checks import check_limits
from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.sections.storage import StorePlace, is_in_store
from ftpsd.config.settings import QuotaSettings, Settings
from ftpsd.config.users.folders import is_nested, overlap_fault
from ftpsd.config.users.homes import HomeFinder, home_of, overlapping
from ftpsd.config.users.loader import LoadedUsers
from ftpsd.config.yaml import Document
from ftpsd.system.memory.large import LargeList, LargeSet


def load_anonymous(document: Document, settings: Settings, users: LoadedUsers, watch: DiskWatch) -> User | None:
    """Return the user of anonymous logins; None if there are none, or if the section has faults.

    The home must be no user's, lie in none and contain none: clients without an account would see or fill it. It may
    be a folder of users; around or in one, the rule for homes of users holds.
    """
    anonymous, store = settings.anonymous, users.store
    if anonymous is None:
        return None
    check_limits(document, anonymous.limits, ("anonymous", "limits"))
    key = ("anonymous", "home")
    place = anonymous.home
    if isinstance(place, StorePlace):
        place = home_of(place, NAMES[0], Path())
    home = HomeFinder(watch, settings.storage.keys()).require(document, key, place)
    if store is None or home is None:
        return None
    for name in NAMES:
        if store.knows(name):
            document.fault(("anonymous",), f"there is a user {name}", "Rename the user, or remove this section.")
    files = map(os.path.realpath, (document.path, settings.users.file))
    inside = None if is_in_store(home) else next((each for each in files if is_nested(home.rstrip("/"), each)), None)
    other = overlapping(home, (each for each in store.homes.all if each not in users.folders))
    if other is not None:
        problem = f"{home} and {other}, the home of a user, are the same or lie in each other"
        document.fault(key, problem, f"Choose a separate {'path' if is_in_store(home) else 'directory'}.")
    elif inside is not None:
        document.fault(key, f"{home} contains {inside}, which is not for everybody", "Choose a separate directory.")
    is_counted, folders = anonymous.quota != QuotaSettings(), users.layers.finder
    folder = folders.overlap(home, is_counted) if folders is not None else None
    if folder is not None:
        document.fault(key, *overlap_fault(home, folder))
    store.homes = _with_home(store.homes, home, is_counted)
    return anonymous_user(anonymous, home)


def _with_home(homes: Homes, home: str, is_counted: bool) -> Homes:
    """Return the homes with another one. Folders may lie in it or around it."""
    every = LargeSet((*homes.all, home))
    counted = LargeSet((*homes.with_quota, *([home] if is_counted else [])))
    if is_in_store(home):
        return attrs.evolve(homes, all=every, with_quota=counted)
    above = {*map(str, Path(home).parents)}
    others = [each for each in homes.outermost if each != home and not each.startswith(f"{home.rstrip('/')}/")]
    return attrs.evolve(
        homes,
        all=every,
        with_quota=counted,
        outermost=LargeList(others if above.intersection(others) else [*others, home]),
        parents=homes.parents | {os.path.dirname(home).rstrip("/") or home},
    )

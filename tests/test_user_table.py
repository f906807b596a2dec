"""The users of `users.yaml` in memory."""

from __future__ import annotations

import pytest

from ftpsd.accounts.yaml_store import UserTable
from ftpsd.config.settings import UserSettings

pytestmark = pytest.mark.quick


def test_a_user_is_made_once() -> None:
    """Asking for a user again returns the same object: a client may log in for each file."""
    table = UserTable()
    kind = table.add_kind(UserSettings())
    table.add("alice", kind, "hash", "/home")
    assert table.get("alice") is table.get("alice")
    assert table.get("bob") is None


def test_a_user_who_is_replaced() -> None:
    """A user who is added again has the new settings, even if somebody has asked for that user before."""
    table = UserTable()
    kind = table.add_kind(UserSettings())
    table.add("alice", kind, "hash", "/home")
    assert table.get("alice")
    table.add("alice", kind, "other", "/home")
    user = table.get("alice")
    assert user is not None
    assert user.settings.password == "other"


def test_few_users_are_kept() -> None:
    """Of many users that were asked for, few are kept: each has about twenty settings."""
    table = UserTable()
    kind = table.add_kind(UserSettings())
    names = [f"user{number}" for number in range(1000)]
    for name in names:
        table.add(name, kind, "hash", "/home")
    users = [table.get(name) for name in names]
    assert sum(table.get(name) is user for name, user in zip(names, users, strict=True)) < 500

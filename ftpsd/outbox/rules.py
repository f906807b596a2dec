"""Which events the rules of the configuration want: Rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ftpsd.config.sections.events import EventRule, PathPattern

#: The special parts of a pattern, and the expressions for them.
_SPECIAL = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def path_expression(pattern: PathPattern) -> str:
    """Return the regular expression of a pattern: `*` and `?` match within a name, `**` also across names."""
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    return "".join(_SPECIAL.get(piece) or re.escape(piece) for piece in pieces)


class Rule:
    """One rule. Without users or paths, it matches events of all; with them, no event that has no user or no path."""

    def __init__(self, settings: EventRule) -> None:
        self.settings = settings
        self.names = frozenset(settings.on)
        self._users = frozenset(settings.users)
        expressions = "|".join(map(path_expression, settings.paths))
        self._path = re.compile(expressions, re.DOTALL) if expressions else None

    def wants_user(self, user: str) -> bool:
        """Return whether the rule is for events of a user. `user` is empty for an event without one."""
        return not self._users or user in self._users

    def wants(self, name: str, user: str, paths: Iterable[str]) -> bool:
        """Return whether the rule is for an event. One of its paths must match: a rename has two."""
        if name not in self.names or not self.wants_user(user):
            return False
        return self._path is None or any(map(self._path.fullmatch, paths))


class Rules:
    """All rules of a configuration."""

    def __init__(self, settings: Iterable[EventRule]) -> None:
        self.rules = tuple(map(Rule, settings))
        #: The names of all events that a rule is for.
        self.names = frozenset(name for rule in self.rules for name in rule.names)

    def of_user(self, user: str) -> Rules:
        """Return the rules that are for a user's events."""
        return Rules(rule.settings for rule in self.rules if rule.wants_user(user))

    def matching(self, name: str, user: str, *paths: str) -> list[Rule]:
        """Return the rules that are for an event."""
        return [rule for rule in self.rules if rule.wants(name, user, paths)]

    def wants(self, name: str, user: str, *paths: str) -> bool:
        """Return whether any rule is for an event."""
        return any(rule.wants(name, user, paths) for rule in self.rules)

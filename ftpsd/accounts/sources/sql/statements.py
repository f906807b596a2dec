"""The SQL statements of an administrator, who writes the name of the user as the parameter `%(name)s`.

They are never templates: the database gets the name apart from the statement.
"""

from __future__ import annotations

import re

from ftpsd.accounts.sources.source import UnusableSettings

_PARAMETER = "%(name)s"

#: A percent sign with what follows it: `%%`, the parameter, or something that psycopg would not accept.
_PERCENT = re.compile(r"%(?:%|\([^)]*\)\w?|\w?)")

#: What databases do not look into: strings, quoted names, comments.
_OPAQUE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


def check(key: str, statement: str, takes_name: bool) -> None:
    """Raise UnusableSettings unless the statement of a key has the parameter if it takes the name, and no other one."""
    found = set(_PERCENT.findall(statement))
    wrong = sorted(found - {"%%", _PARAMETER})
    if wrong:
        remedy = f"Write {_PARAMETER} for the name of the user, and %% for a percent sign."
        raise UnusableSettings(key, f"has “{wrong[0]}”, which is no parameter", remedy)
    if takes_name and _PARAMETER not in found:
        remedy = f"Write WHERE name = {_PARAMETER}, with the column of the name."
        raise UnusableSettings(key, "does not use the name of the user", remedy)
    if not takes_name and (_PARAMETER in found or not statement.strip()):
        raise UnusableSettings(key, "must list the names of all users", "Write it as SELECT name FROM accounts.")
    if any(_PARAMETER in opaque for opaque in _OPAQUE.findall(statement)):
        raise UnusableSettings(key, f"has {_PARAMETER} in quotes or in a comment", "Write it without quotes.")

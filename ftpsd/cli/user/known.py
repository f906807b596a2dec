"""Users of all sources, for `ftpsd user`: Known, find_user, all_users, homes_of_sources, knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from ftpsd.accounts.sources.source import Answer, ConfiguredSource, LoginDenied, Question, SourceFailed, WrongPassword
from ftpsd.accounts.user_store import LOCAL, InvalidRecord, User
from ftpsd.cli.failure import CommandFailed
from ftpsd.config.load import Configuration
from ftpsd.config.sections.values import Value


@frozen
class Known:
    """A user, and the source that knows the user, as `sql[0]`, with what it says; None for the YAML files."""

    user: User
    source: str | None = None
    values: Mapping[str, Value] | None = None


def find_user(configuration: Configuration, name: str) -> Known | None:
    """Return the user of a name, as a login would find it; None if there is none. Raises CommandFailed."""
    place = configuration.settings.users.yaml_place
    found = _find(configuration, configuration.sources[:place], name)
    if found is not None:
        return found
    user = configuration.users.users.get(name)
    return _find(configuration, configuration.sources[place:], name) if user is None else Known(user)


def all_users(configuration: Configuration) -> Iterator[Known]:
    """Yield the users of the YAML files, and those of all sources that can list them; print why others cannot."""
    table = configuration.users.users
    yield from (Known(user) for name in table.names() if (user := table.get(name)) is not None)
    for source in configuration.sources:
        try:
            for name in source.source.names():
                found = None if name in table else _ask(configuration, source, name)
                if found is not None:
                    yield found
        except (SourceFailed, CommandFailed) as error:
            print(f"ftpsd user: users of {source.name} are missing: {error}", file=sys.stderr)


def homes_of_sources(configuration: Configuration) -> set[str]:
    """Return the homes and folders of all users of sources other than the YAML files, without symbolic links.

    Raises CommandFailed with the name of a source unless all its users and their homes are known.
    """
    found: set[str] = set()
    for source in configuration.sources:
        try:
            for name in source.source.names():
                known = _ask(configuration, source, name)
                if known is None:  # a statement of an administrator may list more users than it finds
                    raise CommandFailed(f"it lists {name}, but does not find this user")
                settings = known.user.settings
                found |= {str(settings.home), *(folder.path for folder in settings.folders.values())}
        except (SourceFailed, CommandFailed) as error:
            raise CommandFailed(f"{source.name} may have users with it: {error}") from None
    return found


def knows(source: ConfiguredSource, name: str) -> bool | None:
    """Return whether a source has a user, who may be refused; None if it does not tell: some look up nobody."""
    try:
        return source.source.ask(Question(name, None, LOCAL)) is not None
    except (WrongPassword, LoginDenied):
        return True
    except SourceFailed:
        return None


def _find(configuration: Configuration, sources: Sequence[ConfiguredSource], name: str) -> Known | None:
    for source in sources:
        found = _ask(configuration, source, name)
        if found is not None:
            return found
    return None


def _ask(configuration: Configuration, source: ConfiguredSource, name: str) -> Known | None:
    try:
        answer: Answer | None = source.source.ask(Question(name, None, LOCAL))
        if answer is None:
            return None
        user = User(answer.name, configuration.builder.build(answer.name, answer.values))
        return Known(user, source.name, answer.values)
    except (SourceFailed, WrongPassword, LoginDenied, InvalidRecord) as error:
        raise CommandFailed(f"source {source.name}: {name}: {str(error) or 'the source refuses the login'}") from None

"""The users of sources other than the YAML files: whether they can log in, and their homes can be used."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from itertools import islice

from ftpsd.accounts.sources.source import Answer, ConfiguredSource, LoginDenied, Question, SourceFailed, WrongPassword
from ftpsd.accounts.user_store import LOCAL, InvalidRecord
from ftpsd.checks import host
from ftpsd.checks.findings import Finding, printable
from ftpsd.config.load import Configuration
from ftpsd.config.sections.storage import is_in_store

#: Users of each source that are looked at: those of a source may be many.
MOST = 1000

#: Findings for each source.
_SHOWN = 10

#: Seconds after the timeout of a source, in which its users are looked at.
_PATIENCE = 5.0


def check(configuration: Configuration, unit: host.Unit, written: Sequence[str] | None) -> list[Finding]:
    """Judge the settings and homes of the users that sources can list, as many as there is time for.

    A source that is down or slow has a finding elsewhere.
    """
    found: list[Finding] = []
    for source in configuration.sources:
        each: list[Finding] = []
        look = threading.Thread(target=_look, args=(configuration, source, unit, written, each), daemon=True)
        look.start()
        look.join(source.source.timeout + _PATIENCE)
        now = list(each)
        found += now[:_SHOWN]
        if len(now) > _SHOWN:
            text = f"{len(now) - _SHOWN} more findings about users of {source.name} are not shown."
            found.append(Finding("source.user", "warning", text, "Correct those that are shown, and check again."))
    return found


def _look(
    configuration: Configuration,
    source: ConfiguredSource,
    unit: host.Unit,
    written: Sequence[str] | None,
    found: list[Finding],
) -> None:
    try:
        for name in islice(source.source.names(), MOST):
            found.extend(_user(configuration, source, name, unit, written))
    except SourceFailed:
        pass


def _user(
    configuration: Configuration, source: ConfiguredSource, name: str, unit: host.Unit, written: Sequence[str] | None
) -> Iterator[Finding]:
    try:
        answer: Answer | None = source.source.ask(Question(name, None, LOCAL))
        if answer is None or name in configuration.users.users:
            return
        settings = configuration.builder.build(answer.name, answer.values)
    except InvalidRecord as error:
        yield host.unusable(source.name, printable(name), printable(str(error), 400))
        return
    except (WrongPassword, LoginDenied):
        return
    places = [(settings.home, "home"), *((folder.path, "folder") for folder in settings.folders.values())]
    for path, what in places:
        if path is not None and not is_in_store(path):
            real = os.path.realpath(path)
            yield from host.sandboxed(printable(name), real, unit, what)
            yield from host.outside(printable(name), real, written, what)
